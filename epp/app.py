"""The composition root: makes the parts of a running EPP from its options, starts them in order, stops them in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
import ssl
import time
from collections.abc import Callable, Collection, Coroutine, Iterator
from pathlib import Path
from typing import Any, Final

from epp import version
from epp.api import ConfigError, Plugin, host_port
from epp.app_collecting import Collecting, make_collecting
from epp.app_kubernetes import connect, idle_flags, is_guarded, make_discovery, make_gate
from epp.app_leadership import Leadership
from epp.app_readiness import hindrances
from epp.app_reload import Reloader, log_warnings
from epp.app_tracing import make_traces
from epp.cli.http2_limits import limits
from epp.cli.options import NO_SOURCE, RunOptions, Source, Transport, UsageError
from epp.config import Environment, Loaded, Pipeline, Registry, build, describe, load_default, load_file, load_text
from epp.config.resolved import DataLayer
from epp.data.datastore import Datastore
from epp.director.director import Director
from epp.director.encoding import Encodings
from epp.director.latency_fields import LatencyFields
from epp.discovery.config_file import ConfigFileWatch
from epp.discovery.file import FileDiscovery
from epp.discovery.kubernetes.api import Api
from epp.discovery.kubernetes.credentials import CredentialsError
from epp.discovery.kubernetes.discovery import KubernetesDiscovery
from epp.discovery.object_files import Pool
from epp.discovery.objects import ObjectDiscovery
from epp.discovery.static import parse_endpoints
from epp.observability.bodies import log_needs
from epp.observability.explain import Decisions
from epp.observability.explain_page import ExplainPage
from epp.observability.logs import INFO, log_event
from epp.observability.metrics import Recorder
from epp.observability.state import endpoints_state, exported, plugins_state
from epp.outside import World
from epp.server.access import AccessGate
from epp.server.grpcio import GrpcServer
from epp.server.health import HealthState
from epp.server.http import HttpServer, Pages
from epp.server.lean import LeanServer
from epp.server.session import ExtProc
from epp.server.tls import Certificate, grpc_credentials, ssl_context
from epp.state import StateDir
from epp_plugins.registry import ALIASES, BUILTIN, REPLACED
from epp_plugins.variables import Defaults

_log: Final = logging.getLogger("epp")
_LAST_GRACE_S: Final = 5.0

# What --enable-latency-predictor adds to a configuration without it.
ALWAYS_PREDICTING: Final = ("predicted-latency-producer",)


class StartError(Exception):
    """A part cannot start: a port is taken, a certificate is missing. The message says which and why."""


def make_registry(defaults: Defaults | None = None) -> Registry:
    """All plugins: in-tree ones and those of installed packages. `defaults`: what the environment sets of their parameters."""
    return Registry.with_installed(BUILTIN, aliases=ALIASES, replaced=REPLACED, defaults=defaults)


def load_config(options: RunOptions) -> Loaded:
    """The configuration that the options name, or the built-in default."""
    if options.config_file:
        return load_file(options.config_file)
    if options.config_text:
        return load_text(options.config_text, "--config-text")
    return load_default(predicting=options.enable_latency_predictor)


class Service:
    """One EPP. `start`, then `run_until_stopped`, then `stop`; `stop` is right after a failed start, too."""

    def __init__(self, options: RunOptions, loaded: Loaded, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises InvalidConfig, ConfigError or UsageError; nothing is running then."""
        self._options = options
        self._clock = clock
        self._random = random.Random()
        self._tasks: list[asyncio.Task[None]] = []
        self._stop_asked = asyncio.Event()
        self._hurry = asyncio.Event()
        pool = options.pool_name or "epp"
        self.recorder = Recorder(
            clock,
            stream_metrics=options.enable_grpc_stream_metrics,
            build_ref=version(),
            fairness_id_limit=options.fairness_id_metric_label_limit,
        )
        self.datastore = Datastore(rng=self._random)
        self.outside = World()
        self.environment = Environment(
            fleet=self.datastore.fleet,
            clock=clock,
            random=self._random,
            log=_log.getChild("plugins"),
            metrics=self.recorder.plugin_metrics,
            pool_name=pool,
            observer=self.recorder,
            allow_experimental=options.allow_experimental_plugins,
            sleep=asyncio.sleep,
            outside=self.outside,
            always=ALWAYS_PREDICTING if options.enable_latency_predictor else (),
        )
        self.registry = make_registry(options.plugin_defaults)
        pipeline = build(loaded, self.registry, self.environment)
        self._leadership = Leadership(options, self._random) if options.elects_leader else None
        self.health = HealthState(
            leads=self._leadership.leads if self._leadership is not None else None, hindrances=self._hindrances
        )
        self._traces = make_traces(options.tracing, os.environ)
        self.director = Director(
            self.datastore,
            pipeline,
            recorder=self.recorder,
            clock=clock,
            encodings=Encodings(
                read=options.compressed_requests == "read", max_body_bytes=options.max_request_body_bytes
            ),
            use_subset_hint=not options.disable_endpoint_subset_filter,
            emit_scores=options.emit_endpoint_scores,
            decisions=Decisions(self.datastore.fleet, clock, keep=options.explain_decisions),
            explain_header=options.explain_header,
            latency_fields=LatencyFields(options.latency_fields),
            tracing=self._traces.tracing if self._traces is not None else None,
        )
        self._collecting: Collecting = make_collecting(
            options, pipeline, self.datastore.fleet, clock=clock, rng=self._random
        )
        self._file_discovery = self._make_file_discovery(pipeline)
        self._reloader = Reloader(self.director, self.registry, self.environment)
        self._config_watch = self._make_config_watch(loaded)
        self._objects = self._make_objects()
        self._kube_api: Api | None = None
        self._kubernetes: KubernetesDiscovery | None = None
        self._state_dir = StateDir(Path(options.state_dir)) if options.state_dir else None
        self._service = ExtProc(self.director, max_body_bytes=options.max_request_body_bytes)
        self._ext_proc: LeanServer | GrpcServer | None = None
        self._health_server: LeanServer | GrpcServer | None = None
        self._http: HttpServer | None = None
        self._gate: AccessGate | None = None
        self.recorder.config_loaded(pipeline.config_hash)
        fresh_for_s = self._collecting.fresh_for_s(options.metrics_staleness_threshold_s)
        self.recorder.watch_fleet(self.datastore.fleet, clock, fresh_for_s, pool)
        self.recorder.watch_scrapes(self._scrape_counts)
        self.recorder.watch_sources(self._collecting.errors)
        if self._leadership is not None:
            self.recorder.watch_leadership(self._leadership.lease, self._leadership.leads)
        self._check_source()

    # --- running -----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the ports and begin to look for endpoints. Raises StartError or ConfigError."""
        options = self._options
        pipeline = self.director.pipeline
        log_warnings(pipeline)
        await self._connect()
        for warning in idle_flags(
            options, static=self._file_discovery is not None, connected=self._kube_api is not None
        ):
            _log.warning(warning)
        if self._state_dir is not None:
            await self._load_state(self._state_dir)
        self.datastore.add_listener(self.recorder)
        for collector in self._collecting.collectors:
            self.datastore.add_listener(collector)
        self._reloader.start_background()
        for listener in pipeline.endpoint_listeners:
            self.datastore.add_listener(listener)
        if self._objects is not None:
            self._objects.load()
            self._spawn(self._objects.watch(), "objects")
        if self._file_discovery is not None:
            self._file_discovery.load()
            if self._follow_file(pipeline):
                self._spawn(self._file_discovery.watch(), "file discovery")
        elif options.source in (Source.POOL, Source.SELECTOR):
            self._follow_kubernetes(pipeline)
        else:
            self.datastore.replace_all(parse_endpoints(options.endpoints))
            self.datastore.synced = True
        if self._config_watch is not None:
            self._spawn(self._config_watch.watch(), "configuration reload")
        self.health.synced = self.datastore.synced
        self._health_server = await self._open(options.health_host, options.health_port, "--grpc-health-port")
        self._ext_proc = await self._open(
            options.grpc_host,
            options.grpc_port,
            "--grpc-port",
            service=self._service,
            certificate=self._make_certificate(),
        )
        try:
            self._http = await HttpServer.start(
                self._pages(),
                options.metrics_host,
                options.metrics_port,
                tls=self._metrics_tls(),
                gate=self._gate,
            )
        except OSError as error:
            address = f"{options.metrics_host}:{options.metrics_port}"
            raise StartError(f"cannot listen on {address} (--metrics-port): {error.strerror or error}") from error
        log_event(
            _log,
            INFO,
            "serving",
            version=version(),
            ext_proc_port=self._ext_proc.port,
            health_port=self._health_server.port,
            metrics_port=self._http.port,
            tls=(options.cert_path or "self-signed") if options.secure_serving else "off",
            metrics_auth=self._gate is not None,
            transport=options.transport.value,
            endpoints=len(self.datastore),
            config=options.config_file or ("--config-text" if options.config_text else "built-in default"),
            config_hash=pipeline.config_hash,
        )
        log_needs(_log, pipeline)
        if self._leadership is not None:
            assert self._kube_api is not None
            self._leadership.start(self._kube_api)
        if self._state_dir is not None:
            saving = self._state_dir.keep(self._plugins, every_s=options.state_save_interval_s)
            self._spawn(saving, "saving of state")

    async def run_until_stopped(self) -> None:
        """Serve until `ask_to_stop`; then be not ready, and go on serving for the drain time-out."""
        await self._stop_asked.wait()
        self.health.draining = True
        if self._leadership is not None:
            self._leadership.resign()  # another replica may be ready before this one has drained
        window_s = 0.0 if self._hurry.is_set() else self._options.drain_timeout_s
        log_event(_log, INFO, "draining", seconds=window_s, open_streams=self._service.open_streams)
        if window_s:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), window_s)

    def ask_to_stop(self, *, hurry: bool = False) -> None:
        """Begin to shut down. `hurry`, or asking again: without waiting for the gateway to notice."""
        if hurry or self._stop_asked.is_set():
            self._hurry.set()
        self._stop_asked.set()

    async def stop(self) -> None:
        """Close the ports; streams in progress get a few seconds to end. Nothing is left running."""
        if self._leadership is not None:
            await self._leadership.close()
        if self._ext_proc is not None:
            await self._ext_proc.stop(grace_s=_LAST_GRACE_S)
        if self._health_server is not None:
            await self._health_server.stop(grace_s=0)
        if self._gate is not None:
            await self._gate.close()
        if self._http is not None:
            await self._http.close()
        if self._state_dir is not None and self._http is not None:  # what never served has learned nothing
            await self._state_dir.save(self._plugins())
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._kube_api is not None:
            await self._kube_api.close()
        if self._traces is not None:
            await self._traces.close()
        await self._collecting.close()
        self._reloader.stop_background()
        await self.outside.close()
        if self._http is not None:  # what never served has nothing to report but its error
            log_event(_log, INFO, "stopped")

    def notes(self) -> list[str]:
        """What an operator should know though requests are served: files that are wrong, changes that wait."""
        objects = self._objects.problems if self._objects is not None else ()
        state = self._state_dir.problems if self._state_dir is not None else ()
        kubernetes = self._kubernetes.notes() if self._kubernetes is not None else ()
        election = self._leadership.notes() if self._leadership is not None else ()
        return [
            *self._reloader.notes(),
            *kubernetes,
            *election,
            *(f"objects: {p}" for p in objects),
            *(f"state: {p}" for p in state),
        ]

    def _hindrances(self) -> Iterator[str]:
        app_protocol = self._kubernetes.app_protocol if self._kubernetes is not None else ""
        return hindrances(self.director.pipeline, app_protocol=app_protocol)

    @property
    def metrics_port(self) -> int:
        """The port of the metrics page, once it is open."""
        assert self._http is not None
        return self._http.port

    # --- parts -------------------------------------------------------------------------------------------------------

    async def _connect(self) -> None:
        """To Kubernetes, where something needs it. Raises ConfigError."""
        options = self._options
        static = self._file_discovery is not None
        guarded = is_guarded(options, static=static)
        needs = []
        if not static and options.source in (Source.POOL, Source.SELECTOR):
            needs.append("Kubernetes")
        if self._leadership is not None:
            needs.append("--ha-enable-leader-election")
        if guarded:
            needs.append("--metrics-endpoint-auth (=false lets everybody read the pages)")
        if not needs:
            return
        try:
            self._kube_api = await connect(options)
        except CredentialsError as error:
            raise ConfigError(f"{', '.join(needs)}: {error}") from error
        if guarded:
            self._gate = make_gate(self._kube_api, self._clock)

    async def _load_state(self, state_dir: StateDir) -> None:
        try:
            state_dir.prepare()
        except OSError as error:
            raise StartError(
                f"--state-dir {self._options.state_dir}: cannot write there: {error.strerror or error}"
            ) from error
        await state_dir.load(self._plugins())

    def _plugins(self) -> Collection[Plugin]:
        """Those of the configuration that is in force."""
        return self.director.pipeline.plugins.values()

    def _check_source(self) -> None:
        if self._file_discovery is not None:
            return
        if self._options.source is Source.UNSAID:
            raise UsageError(NO_SOURCE)

    def _follow_kubernetes(self, pipeline: Pipeline) -> None:
        def synced(value: bool) -> None:
            self.health.synced = value

        assert self._kube_api is not None
        self._kubernetes = make_discovery(
            self._kube_api,
            self._options,
            self.datastore,
            synced=synced,
            clock=self._clock,
            rng=self._random,
            pipeline=pipeline,
        )
        self.recorder.watch_kubernetes(self._kubernetes.statuses)
        warm: bool = pipeline.settings["feature_gates"]["haPopulateNonLeaderDatastore"]
        work = self._kubernetes.run()
        if self._leadership is not None and not warm:
            work = self._leadership.then(work)
        self._spawn(work, "Kubernetes discovery")

    def _make_file_discovery(self, pipeline: Pipeline) -> FileDiscovery | None:
        plugin = _discovery_plugin(pipeline)
        return None if plugin is None else FileDiscovery(plugin.params.path, self.datastore)

    def _follow_file(self, pipeline: Pipeline) -> bool:
        plugin = _discovery_plugin(pipeline)
        return plugin is not None and bool(plugin.params.watch_file)

    def _make_config_watch(self, loaded: Loaded) -> ConfigFileWatch | None:
        options = self._options
        if not options.config_file or not options.config_reload or Path(options.config_file).is_fifo():
            return None  # a pipe, as of a shell's <(...), has nothing more to say
        self.registry.inspect_builtin()
        reloader = self._reloader
        return ConfigFileWatch(options.config_file, changed=reloader.apply, unreadable=reloader.refuse, known=loaded)

    def _make_objects(self) -> ObjectDiscovery | None:
        options = self._options
        if not options.objects_dir:
            return None
        pool = Pool(options.pool_name, namespace=options.pool_namespace, group=options.pool_group)
        return ObjectDiscovery(options.objects_dir, self.datastore, pool)

    def _make_certificate(self) -> Certificate | None:
        options = self._options
        if not options.secure_serving:
            return None
        certificate = Certificate(Path(options.cert_path) if options.cert_path else None)
        if options.enable_cert_reload:
            self._spawn(certificate.follow(), "certificate reload")
        return certificate

    def _metrics_tls(self) -> ssl.SSLContext | None:
        options = self._options
        if not options.metrics_cert_dir:
            return None
        certificate = Certificate(Path(options.metrics_cert_dir))
        self._spawn(certificate.follow(), "metrics certificate reload")
        context = ssl_context(certificate, protocols=("http/1.1",))
        if options.metrics_client_ca_file:
            try:
                context.load_verify_locations(options.metrics_client_ca_file)
            except OSError as error:  # ssl.SSLError is one
                raise ConfigError(f"--metrics-client-ca-file {options.metrics_client_ca_file}: {error}") from error
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    async def _open(
        self,
        host: str,
        port: int,
        flag: str,
        *,
        service: ExtProc | None = None,
        certificate: Certificate | None = None,
    ) -> LeanServer | GrpcServer:
        """A gRPC port with health checks, and ext_proc where `service` is given."""
        options = self._options
        receive_bytes = options.max_message_bytes
        version, suites = options.tls_min_version, options.tls_cipher_suites
        server: LeanServer | GrpcServer
        try:
            if options.transport is Transport.LEAN:
                limited = limits(options.http2_limits, max_message_bytes=receive_bytes)
                server = LeanServer(self.health, service, limits=limited, compress=options.grpc_enable_compression)
                context = ssl_context(certificate, min_version=version, cipher_suites=suites) if certificate else None
                await server.start(host, port, tls=context)
            else:
                send_bytes = options.grpc_max_send_msg_size_bytes
                server = GrpcServer(
                    self.health,
                    service,
                    max_receive_bytes=receive_bytes,
                    max_send_bytes=send_bytes,
                    compress=options.grpc_enable_compression,
                )
                tls = grpc_credentials(certificate, min_version=version, cipher_suites=suites) if certificate else None
                await server.start(host, port, tls=tls)
        except (RuntimeError, OSError) as error:
            raise StartError(f"cannot listen on {host_port(host, port)} ({flag}): is it in use?") from error
        return server

    def _pages(self) -> Pages:
        return Pages(
            metrics=self.recorder.parts,
            problems=self.health.problems,
            endpoints=lambda: endpoints_state(
                self.datastore.fleet,
                self._clock,
                pool_name=self.environment.pool_name,
                scrapes=self._scrape_counts,
            ),
            config=lambda: (describe(self.director.pipeline), self.director.pipeline.config_hash),
            plugins=lambda: plugins_state(self.director.pipeline.plugins),
            export=lambda name: exported(self.director.pipeline.plugins, name),
            requests=self.director.request_log.recent,
            explain=ExplainPage(self.director.decisions) if self.director.decisions.keeps else None,
            notes=self.notes,
        )

    def _scrape_counts(self) -> Iterator[tuple[str, str, float]]:
        for status in self._collecting.statuses():
            yield status.endpoint.name, "ok", status.scrapes
            yield status.endpoint.name, "failed", status.failures

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        async def guarded() -> None:
            try:
                await work
            except Exception:
                _log.exception("%s has stopped", name)

        self._tasks.append(asyncio.get_running_loop().create_task(guarded(), name=name))


def _discovery_plugin(pipeline: Pipeline) -> Plugin | None:
    layer: DataLayer = pipeline.settings["data_layer"]
    return pipeline.plugins[layer.discovery] if layer.discovery else None


async def serve(options: RunOptions, loaded: Loaded) -> None:
    """Run one EPP until SIGTERM or SIGINT. Raises InvalidConfig, ConfigError, UsageError or StartError."""
    service = Service(options, loaded)
    loop = asyncio.get_running_loop()
    # Ctrl-C is a person who waits; SIGTERM is a gateway that has to notice first.
    loop.add_signal_handler(signal.SIGTERM, service.ask_to_stop)
    loop.add_signal_handler(signal.SIGINT, lambda: service.ask_to_stop(hurry=True))
    try:
        await service.start()
        await service.run_until_stopped()
    finally:
        await service.stop()
