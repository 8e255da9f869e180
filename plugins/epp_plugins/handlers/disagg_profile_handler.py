"""disagg-profile-handler: one endpoint decodes; others prefill and encode for it where deciders want them to."""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final, Literal

import msgspec

from epp.api import (
    PEER_ENDPOINT,
    Code,
    ConfigError,
    Decider,
    Endpoint,
    Handle,
    Metric,
    Plugin,
    PreRequest,
    ProfileHandler,
    ProfileResult,
    Request,
    RequestError,
    SchedulingResult,
    deprecated,
    headers,
)
from epp_plugins.stage_headers import set_stage_headers

Results = Mapping[str, ProfileResult | None]

_DEPRECATED: Final = (
    *("decode_profile", "prefill_profile", "encode_profile"),
    *("prefill_decider_plugin_name", "encode_decider_plugin_name", "decider_plugin_name"),
)
_UNAVAILABLE: Final = "a stage of this request found no endpoint"


class Stages(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The names of the profiles that serve each stage."""

    decode: str = "decode"
    prefill: str = "prefill"
    encode: str = "encode"


class Deciders(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The names of the plugins that decide about each stage. Without one, the stage never runs."""

    prefill: str = ""
    encode: str = ""


class DisaggProfileHandler(ProfileHandler, PreRequest):
    """The decode profile's result is the destination. Its endpoint is the peer (`PEER_ENDPOINT`) of the stages after it.

    `decode-first`: decode, then encode and prefill, each if its decider says yes for the decode endpoint. `prefill-first`:
    prefill if there is such a profile, encode if its decider says yes, then decode; the prefill endpoint is the peer. A stage
    that picks the decode endpoint itself is left to it, without a header. Sets x-prefiller-host-port (the first prefill
    endpoint) and x-encoder-hosts-ports (all encode endpoints, separated by commas).

    A stage that is wanted and finds no endpoint is left out and the decode endpoint does all, as in the Go EPP, which does so
    in silence; here it is logged and counted, and with `onStageUnavailable: refuse` the request is answered with status 503.
    The flat parameters (`decodeProfile`, ...) are deprecated names of those in `profiles` and `deciders`.
    """

    type = "disagg-profile-handler"
    decision_metric: ClassVar[str] = "disagg_decision_total"

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        stage_order: Literal["decode-first", "prefill-first"] = "decode-first"
        profiles: Stages = Stages()
        deciders: Deciders = Deciders()
        on_stage_unavailable: Literal["proceed", "refuse"] = "proceed"
        decode_profile: Annotated[str, deprecated("use profiles.decode")] = ""
        prefill_profile: Annotated[str, deprecated("use profiles.prefill")] = ""
        encode_profile: Annotated[str, deprecated("use profiles.encode")] = ""
        prefill_decider_plugin_name: Annotated[str, deprecated("use deciders.prefill")] = ""
        encode_decider_plugin_name: Annotated[str, deprecated("use deciders.encode")] = ""
        decider_plugin_name: Annotated[str, deprecated("use deciders.prefill")] = ""

    def __init__(self, params: Any, handle: Handle) -> None:
        super().__init__(params, handle)
        settings = self.settings(params)
        nested = settings.profiles != Stages() or settings.deciders != Deciders()
        if nested and any(getattr(settings, name) for name in _DEPRECATED):
            raise ConfigError("profiles and deciders cannot be written beside their deprecated names, as decodeProfile")
        self._order = settings.stage_order
        self._refuses = settings.on_stage_unavailable == "refuse"
        self._stages = _stages(settings)
        names = _decider_names(settings)
        self._deciders = {stage: handle.plugin(name, Decider) for stage, (_, name) in names.items()}
        if self._order == "prefill-first" and "prefill" in self._deciders:
            path = names["prefill"][0]
            raise ConfigError(f"{path}: with stageOrder prefill-first nothing is known for a decider to decide on")
        self._has_prefill = False
        self._lacking: set[str] = set()
        self._decisions = handle.metrics.counter(
            f"llm_d_epp_{self.decision_metric}",
            "Requests by the stages that got an endpoint of their own",
            ("plugin_name", "plugin_type", "model_name", "decision_type"),
        )
        self._unavailable: Metric = handle.metrics.counter(
            "llm_d_epp_disagg_stage_unavailable_total", "Stages that were wanted and found no endpoint", ("stage",)
        )

    @classmethod
    def settings(cls, params: Any) -> DisaggProfileHandler.Params:
        """`params` as this class has them: subclasses have others."""
        assert isinstance(params, DisaggProfileHandler.Params)
        return params

    @classmethod
    def refers_to(cls, params: Any) -> Mapping[str, tuple[str, builtins.type[Plugin]]]:
        return {path: (name, Decider) for path, name in _decider_names(cls.settings(params)).values()}

    def check_profiles(self, names: Sequence[str]) -> None:
        listed = ", ".join(names) or "none"
        for stage in ("decode", *self._deciders):
            profile = getattr(self._stages, stage)
            if profile not in names:
                raise ConfigError(f'profiles.{stage}: no scheduling profile is named "{profile}"; there are {listed}')
        self._has_prefill = self._stages.prefill in names
        for stage in ("prefill", "encode"):
            runs = stage in self._deciders or (stage == "prefill" and self._order == "prefill-first")
            if getattr(self._stages, stage) in names and not runs:
                self.handle.log.warning("plugin %s: without deciders.%s that stage never runs", self.name, stage)

    def pick_profiles(self, request: Request, results: Results) -> Iterable[str]:
        return (
            self._decode_first(request, results)
            if self._order == "decode-first"
            else self._prefill_first(request, results)
        )

    def _decode_first(self, request: Request, results: Results) -> Iterable[str]:
        if not results:
            return (self._stages.decode,)
        decoder = _first(results.get(self._stages.decode))
        if decoder is None or len(results) > 1:
            return ()
        request.data[PEER_ENDPOINT] = decoder
        return [getattr(self._stages, s) for s in ("encode", "prefill") if self._wants(s, request, decoder)]

    def _prefill_first(self, request: Request, results: Results) -> Iterable[str]:
        if not results and self._has_prefill:
            return (self._stages.prefill,)
        if self._stages.decode in results:
            return ()
        prefiller = _first(results.get(self._stages.prefill))
        if prefiller is not None:
            request.data[PEER_ENDPOINT] = prefiller
        encode = (self._stages.encode,) if self._wants("encode", request, None) else ()
        return (*encode, self._stages.decode)

    def _wants(self, stage: str, request: Request, decoder: Endpoint | None) -> bool:
        decider = self._deciders.get(stage)
        return decider is not None and decider.disaggregate(request, decoder)

    def process_results(self, request: Request, results: Results) -> SchedulingResult:
        decoder = _first(results.get(self._stages.decode))
        kept: dict[str, ProfileResult | None] = {}
        for stage in ("encode", "prefill"):
            profile = getattr(self._stages, stage)
            if profile in results and decoder is not None:
                self._note(stage, available=results[profile] is not None)
                if _first(results[profile]) not in (None, decoder):
                    kept[profile] = results[profile]
        if decoder is not None:
            kept[self._stages.decode] = results[self._stages.decode]
            self._decisions.labels(self.name, self.type, request.model or "unknown", self._decision(kept)).inc()
        return SchedulingResult(kept, self._stages.decode)

    def _note(self, stage: str, *, available: bool) -> None:
        """Count a stage that found nobody, and log when that begins and ends. RequestError if it is to be refused."""
        if available:
            if stage in self._lacking:
                self._lacking.discard(stage)
                self.handle.log.warning("plugin %s: stage %s finds endpoints again", self.name, stage)
            return
        self._unavailable.labels(stage).inc()
        if stage not in self._lacking:
            self._lacking.add(stage)
            instead = "its requests are refused" if self._refuses else "the decode endpoint does its work"
            self.handle.log.warning("plugin %s: stage %s finds no endpoint: %s", self.name, stage, instead)
        if self._refuses:
            reason = {headers.DROPPED_REASON: "rejected-no-endpoints"}
            raise RequestError(Code.SERVICE_UNAVAILABLE, _UNAVAILABLE, headers=reason)

    def _decision(self, kept: Results) -> str:
        if self._stages.encode in kept:
            return "encode-prefill-decode" if self._stages.prefill in kept else "encode-decode"
        return "prefill-decode" if self._stages.prefill in kept else "decode-only"

    def pre_request(self, request: Request, result: SchedulingResult) -> None:
        set_stage_headers(request, result, prefill=self._stages.prefill, encode=self._stages.encode)


def _first(result: ProfileResult | None) -> Endpoint | None:
    return result.endpoints[0] if result is not None and result.endpoints else None


def _stages(params: DisaggProfileHandler.Params) -> Stages:
    return Stages(
        decode=params.decode_profile or params.profiles.decode,
        prefill=params.prefill_profile or params.profiles.prefill,
        encode=params.encode_profile or params.profiles.encode,
    )


def _decider_names(params: DisaggProfileHandler.Params) -> dict[str, tuple[str, str]]:
    """By stage: the parameter that names its decider, and the decider's name."""
    written = (
        ("prefill", "deciders.prefill", params.deciders.prefill),
        ("prefill", "prefillDeciderPluginName", params.prefill_decider_plugin_name),
        ("prefill", "deciderPluginName", params.decider_plugin_name),
        ("encode", "deciders.encode", params.deciders.encode),
        ("encode", "encodeDeciderPluginName", params.encode_decider_plugin_name),
    )
    names: dict[str, tuple[str, str]] = {}
    for stage, path, name in written:
        if name:
            names.setdefault(stage, (path, name))
    return names
