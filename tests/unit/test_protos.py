"""Our trimmed protobuf files say on the wire exactly what their originals say.

ext_proc, health and HttpBody are held against the stubs of Envoy, gRPC and Google; the vLLM and Vertex AI messages
against tables written here by hand, because no package carries them.
"""

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from google.protobuf import any_pb2, descriptor_pool, duration_pb2, message_factory, struct_pb2, wrappers_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from epp.extproc.gen import ext_proc_pb2
from epp.server.gen import health_pb2
from epp_plugins.gen import vertexai_prediction_pb2, vllm_engine_pb2
from tests.support.envoy_protos import know

ROOT = Path(__file__).resolve().parents[2]
STUBS: list[ModuleType] = [ext_proc_pb2, health_pb2, vllm_engine_pb2, vertexai_prediction_pb2]

EXT_PROC = "envoy.service.ext_proc.v3"
importlib.import_module("grpc_health.v1.health_pb2")
know()

# Where the original of each of our messages lives: package of the original -> messages.
ORIGINALS = {
    "llmepp.ext_proc.v3": {
        EXT_PROC: (
            "ProcessingRequest ProcessingResponse ProtocolConfiguration HttpHeaders HttpBody HttpTrailers "
            "HeadersResponse BodyResponse TrailersResponse CommonResponse HeaderMutation BodyMutation "
            "StreamedBodyResponse ImmediateResponse GrpcStatus"
        ),
        "envoy.config.core.v3": "Metadata HeaderMap HeaderValue HeaderValueOption",
        "envoy.extensions.filters.http.ext_proc.v3": "ProcessingMode",
        "envoy.type.v3": "HttpStatus",
    },
    "llmepp.health.v1": {
        "grpc.health.v1": "HealthCheckRequest HealthCheckResponse HealthListRequest HealthListResponse"
    },
    "llmepp.vertexai": {"google.api": "HttpBody"},
}
PAIRS = {
    f"{ours}.{name}": f"{theirs}.{name}"
    for ours, packages in ORIGINALS.items()
    for theirs, names in packages.items()
    for name in names.split()
}

# Notation: number, name, type; [] repeated, ? optional, @ the oneof it belongs to.
VLLM = {
    "GenerateRequest": [
        "1 request_id string",
        "2 tokenized TokenizedInput @input",
        "3 text string @input",
        "4 sampling_params SamplingParams",
        "5 stream bool",
        "7 mm_inputs MultimodalInputs",
    ],
    "TokenizedInput": ["1 original_text string", "2 input_ids uint32[]"],
    "SamplingParams": [
        "1 temperature float?",
        "2 top_p float",
        "3 top_k uint32",
        "4 min_p float",
        "5 frequency_penalty float",
        "6 presence_penalty float",
        "7 repetition_penalty float",
        "8 max_tokens uint32?",
        "9 min_tokens uint32",
        "10 stop string[]",
        "11 stop_token_ids uint32[]",
        "12 skip_special_tokens bool",
        "13 spaces_between_special_tokens bool",
        "14 ignore_eos bool",
        "15 n uint32",
        "16 json_schema string @constraint",
        "17 regex string @constraint",
        "18 grammar string @constraint",
        "19 structural_tag string @constraint",
        "20 json_object bool @constraint",
        "21 choice ChoiceConstraint @constraint",
        "22 logprobs int32?",
        "23 prompt_logprobs int32?",
        "24 seed int32?",
        "25 include_stop_str_in_output bool",
        "26 logit_bias map<int32,float>",
        "27 truncate_prompt_tokens int32?",
    ],
    "ChoiceConstraint": ["1 choices string[]"],
    "MultimodalInputs": [
        "2 pixel_values TensorData",
        "3 model_specific_tensors map<string,TensorData>",
        "4 im_token_id uint32?",
        "5 mm_placeholders PlaceholderRange[]",
        "6 mm_hashes string[]",
        "7 batched_keys string[]",
        "8 flat_keys map<string,string>",
        "9 keep_on_cpu_keys string[]",
    ],
    "PlaceholderRange": ["1 offset uint32", "2 length uint32"],
    "TensorData": ["1 data bytes", "2 shape uint32[]", "3 dtype string"],
    "GenerateResponse": ["1 chunk GenerateStreamChunk @response", "2 complete GenerateComplete @response"],
    "GenerateStreamChunk": [
        "1 token_ids uint32[]",
        "2 prompt_tokens uint32",
        "3 completion_tokens uint32",
        "4 cached_tokens uint32",
    ],
    "GenerateComplete": [
        "1 output_ids uint32[]",
        "2 finish_reason string",
        "3 prompt_tokens uint32",
        "4 completion_tokens uint32",
        "5 cached_tokens uint32",
    ],
    "EmbedRequest": ["1 request_id string", "2 tokenized TokenizedInput"],
    "EmbedResponse": ["1 embedding float[]", "2 prompt_tokens uint32", "3 embedding_dim uint32"],
}
VERTEXAI = {
    "ChatCompletionsRequest": ["1 endpoint string", "2 http_body HttpBody"],
    "RawPredictRequest": ["1 endpoint string", "2 http_body HttpBody"],
    "StreamRawPredictRequest": ["1 endpoint string", "2 http_body HttpBody"],
    "HttpBody": ["1 content_type string", "2 data bytes", "3 extensions Any[]"],
}


def message_type(full_name: str) -> Descriptor:
    """The descriptor of a loaded message."""
    return descriptor_pool.Default().FindMessageTypeByName(full_name)


def empty(descriptor: Descriptor) -> Message:
    """An empty message of this type."""
    return message_factory.GetMessageClass(descriptor)()


def scalar(field: FieldDescriptor) -> object:
    """A value that is not the default and differs from field to field (two swapped fields show), booleans apart."""
    mark = sum(field.name.encode())
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            return field.name if field.type == FieldDescriptor.TYPE_STRING else b"\x00\xff" + field.name.encode()
        case FieldDescriptor.CPPTYPE_BOOL:
            return True
        case FieldDescriptor.CPPTYPE_ENUM:
            assert field.enum_type is not None
            return field.enum_type.values[-1].number
        case FieldDescriptor.CPPTYPE_UINT32:
            return mark
        case _:
            raise AssertionError(f"{field.full_name}: no example value for cpp_type {field.cpp_type}")


def fill(message: Message) -> None:
    """Set every field, all the way down. Of a oneof, the last one stays."""
    match message.DESCRIPTOR.full_name:
        case "google.protobuf.Struct":
            example = struct_pb2.Struct()
            example.update({"text": "a", "number": 1.5, "flag": True, "none": None, "list": [1, {"deep": "b"}]})
            message.MergeFrom(example)
        case "google.protobuf.Any":
            packed = any_pb2.Any()
            packed.Pack(wrappers_pb2.StringValue(value="packed"))
            message.MergeFrom(packed)
        case "google.protobuf.Duration":
            message.MergeFrom(duration_pb2.Duration(seconds=90, nanos=7))
        case "google.protobuf.BoolValue":
            message.MergeFrom(wrappers_pb2.BoolValue(value=True))
        case _:
            for field in message.DESCRIPTOR.fields:
                fill_field(message, field.name)


def fill_field(message: Message, name: str) -> None:
    """Set one field, and everything below it."""
    field = field_of(message_type(message.DESCRIPTOR.full_name), name)
    if is_map(field):
        fill(getattr(message, field.name)["some key"])
    elif field.is_repeated and field.message_type:
        fill(getattr(message, field.name).add())
        getattr(message, field.name).add()
    elif field.is_repeated:
        getattr(message, field.name).extend([scalar(field), scalar(field)])
    elif field.message_type:
        getattr(message, field.name).SetInParent()
        fill(getattr(message, field.name))
    else:
        setattr(message, field.name, scalar(field))


def field_of(descriptor: Descriptor | None, name: str) -> FieldDescriptor:
    assert descriptor is not None
    return descriptor.fields_by_name[name]


def is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def with_field(descriptor: Descriptor, name: str) -> Message:
    """A message with this one field set."""
    message = empty(descriptor)
    fill_field(message, name)
    return message


def wire(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)


def parts(message: Message) -> Iterator[Message]:
    """The message and every message in it."""
    yield message
    for field, value in message.ListFields():
        if is_map(field):
            inner = list(value.values()) if field_of(field.message_type, "value").message_type else []
        elif field.message_type:
            inner = value if field.is_repeated else [value]
        else:
            inner = []
        for one in inner:
            yield from parts(one)


def unknown_fields(message: Message) -> int:
    return sum(len(UnknownFieldSet(part)) for part in parts(message))


def shape(descriptor: Descriptor) -> DescriptorProto:
    """What a message looks like on the wire and in code: options gone, fields by number, originals' names as ours."""
    proto = DescriptorProto()
    descriptor.CopyToProto(proto)
    for message in (proto, *proto.nested_type):
        message.ClearField("options")
        for part in message.oneof_decl:
            part.ClearField("options")
        fields = sorted(message.field, key=lambda field: field.number)
        for field in fields:
            field.ClearField("options")
            field.ClearField("json_name")
            for ours, packages in ORIGINALS.items():
                for theirs in packages:
                    if field.type_name.startswith(f".{theirs}."):
                        field.type_name = field.type_name.replace(f".{theirs}.", f".{ours}.")
        del message.field[:]
        message.field.extend(fields)
    return proto


def reachable(descriptor: Descriptor) -> set[str]:
    """Names of the messages that can occur in this one, itself included, map entries and Google's own left out."""
    found: set[str] = set()
    todo = [descriptor]
    while todo:
        message = todo.pop()
        if message.full_name in found or message.file.package == "google.protobuf":
            continue
        found.add(message.full_name)
        todo.extend(field.message_type for field in message.fields if field.message_type)
    return {name for name in found if not message_type(name).GetOptions().map_entry}


def in_notation(field: FieldDescriptor) -> str:
    """A field as the tables above write it."""

    def type_of(field: FieldDescriptor) -> str:
        if field.message_type:
            return field.message_type.name
        names: dict[int, str] = {number: name for name, number in FieldDescriptorProto.Type.items()}
        return names[field.type].removeprefix("TYPE_").lower()

    if is_map(field):
        key, value = (field_of(field.message_type, part) for part in ("key", "value"))
        return f"{field.number} {field.name} map<{type_of(key)},{type_of(value)}>"
    oneof = field.containing_oneof
    optional = oneof is not None and oneof.name == f"_{field.name}"
    mark = "[]" if field.is_repeated else "?" if optional else f" @{oneof.name}" if oneof else ""
    return f"{field.number} {field.name} {type_of(field)}{mark}"


FIELDS = [
    pytest.param(ours, theirs, field.name, id=f"{ours.split('.')[-1]}.{field.name}")
    for ours, theirs in PAIRS.items()
    for field in message_type(theirs).fields
]


@pytest.mark.parametrize(("ours", "theirs"), PAIRS.items(), ids=[name.split(".")[-1] for name in PAIRS])
def test_a_message_has_the_fields_of_its_original(ours: str, theirs: str) -> None:
    assert shape(message_type(ours)) == shape(message_type(theirs))


@pytest.mark.parametrize(("ours", "theirs", "field"), FIELDS)
def test_what_we_write_is_read_alike_by_the_original(ours: str, theirs: str, field: str) -> None:
    data = wire(with_field(message_type(ours), field))

    read = empty(message_type(theirs))
    read.ParseFromString(data)

    assert read == with_field(message_type(theirs), field)
    assert unknown_fields(read) == 0
    assert wire(read) == data


@pytest.mark.parametrize(("ours", "theirs", "field"), FIELDS)
def test_what_the_original_writes_is_read_alike_by_us(ours: str, theirs: str, field: str) -> None:
    data = wire(with_field(message_type(theirs), field))

    read = empty(message_type(ours))
    read.ParseFromString(data)

    assert read == with_field(message_type(ours), field)
    assert unknown_fields(read) == 0
    assert wire(read) == data


@pytest.mark.parametrize("root", ["ProcessingRequest", "ProcessingResponse"])
def test_everything_a_stream_can_carry_has_a_message_here(root: str) -> None:
    assert reachable(message_type(f"{EXT_PROC}.{root}")) <= set(PAIRS.values())


def test_every_message_here_is_held_against_an_original_or_a_table() -> None:
    defined = {message.full_name for stub in STUBS for message in stub.DESCRIPTOR.message_types_by_name.values()}

    tables = {f"llmepp.vllm.{name}" for name in VLLM} | {f"llmepp.vertexai.{name}" for name in VERTEXAI}
    assert defined == set(PAIRS) | tables


def test_http_status_codes_have_the_numbers_of_envoy() -> None:
    theirs = descriptor_pool.Default().FindEnumTypeByName("envoy.type.v3.StatusCode")

    assert dict(ext_proc_pb2.StatusCode.items()) == {value.name: value.number for value in theirs.values}


def test_an_http_status_that_has_no_name_travels() -> None:
    status = ext_proc_pb2.HttpStatus.FromString(b"\x08\x9f\x04")

    assert status.code == 543


@pytest.mark.parametrize(
    ("stub", "table"),
    [(vllm_engine_pb2, VLLM), (vertexai_prediction_pb2, VERTEXAI)],
    ids=["vllm", "vertexai"],
)
def test_grpc_bodies_have_the_fields_of_the_table(stub: ModuleType, table: dict[str, list[str]]) -> None:
    messages = stub.DESCRIPTOR.message_types_by_name

    assert {name: sorted(map(in_notation, message.fields)) for name, message in messages.items()} == {
        name: sorted(fields) for name, fields in table.items()
    }


def test_a_generate_request_is_read_from_its_bytes() -> None:
    request = vllm_engine_pb2.GenerateRequest.FromString(
        b"\x0a\x01r"  # 1 request_id
        b"\x12\x08\x0a\x01p\x12\x03\x01\xac\x02"  # 2 tokenized: 1 original_text, 2 input_ids, packed
        b"\x22\x04\x40\x00\x78\x02"  # 4 sampling_params: 8 max_tokens, present and 0; 15 n
        b"\x28\x01"  # 5 stream
    )

    assert (request.request_id, request.stream, request.WhichOneof("input")) == ("r", True, "tokenized")
    assert (request.tokenized.original_text, list(request.tokenized.input_ids)) == ("p", [1, 300])
    assert request.sampling_params.HasField("max_tokens")
    assert (request.sampling_params.max_tokens, request.sampling_params.n) == (0, 2)


def test_a_vllm_field_that_is_not_listed_survives() -> None:
    # A rewritten request must not lose what only the model server understands; number 6 is such a field.
    data = b"\x0a\x01r\x32\x02\x08\x01"

    assert vllm_engine_pb2.GenerateRequest.FromString(data).SerializeToString() == data


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_ours_and_the_originals_live_in_one_process(first: str) -> None:
    ours = [
        "from epp.extproc.gen import ext_proc_pb2",
        "from epp.server.gen import health_pb2",
        "from epp_plugins.gen import vllm_engine_pb2, vertexai_prediction_pb2",
    ]
    theirs = [
        "from tests.support.envoy_protos import know; know()",
        "from grpc_health.v1 import health_pb2 as grpc_health_pb2",
    ]
    use = [
        "body = ext_proc_pb2.HttpBody(body=b'x').SerializeToString()",
        "from google.protobuf import descriptor_pool, message_factory",
        f"original = descriptor_pool.Default().FindMessageTypeByName('{EXT_PROC}.HttpBody')",
        "print(message_factory.GetMessageClass(original).FromString(body).body)",
    ]
    lines = (ours + theirs if first == "ours" else theirs + ours) + use
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.stdout, done.stderr) == ("b'x'\n", "")


@pytest.mark.parametrize("stub", STUBS, ids=lambda stub: stub.DESCRIPTOR.name)
def test_a_stub_loads_on_the_oldest_protobuf_that_is_allowed(stub: ModuleType) -> None:
    assert stub.__file__ is not None
    source = Path(stub.__file__).read_text()

    # A stub refuses a runtime older than its compiler, so a newer compiler would shut out protobuf 6.
    assert "# Protobuf Python Version: 6.31.1\n" in source


@pytest.mark.parametrize("stub", STUBS, ids=lambda stub: stub.DESCRIPTOR.name)
def test_a_stub_is_what_its_proto_file_gives(stub: ModuleType, tmp_path: Path) -> None:
    # Compares descriptors, so any compiler will do; scripts/protos.sh --check compares bytes.
    protoc = pytest.importorskip(
        "grpc_tools.protoc", reason="grpcio-tools is not installed: no compiler to compare with"
    )
    well_known = Path(protoc.__file__).parent / "_proto"
    out = tmp_path / "set"
    arguments = ["protoc", f"-I{ROOT / 'protos'}", f"-I{well_known}", f"--descriptor_set_out={out}"]
    assert protoc.main([*arguments, stub.DESCRIPTOR.name]) == 0

    (compiled,) = FileDescriptorSet.FromString(out.read_bytes()).file
    committed = FileDescriptorProto()
    stub.DESCRIPTOR.CopyToProto(committed)
    assert compiled == committed


@pytest.mark.parametrize("stub", STUBS, ids=lambda stub: stub.DESCRIPTOR.name)
def test_the_types_of_a_stub_list_the_fields_of_its_messages(stub: ModuleType) -> None:
    assert stub.__file__ is not None
    tree = ast.parse(Path(stub.__file__).with_suffix(".pyi").read_text())
    listed = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and isinstance(node.body[0], ast.Assign):
            listed[node.name] = set(ast.literal_eval(node.body[0].value))

    messages = stub.DESCRIPTOR.message_types_by_name
    expected = {name: {field.name for field in message.fields} for name, message in messages.items()}
    assert listed == expected | {name: set() for name in stub.DESCRIPTOR.enum_types_by_name}


def test_every_proto_file_has_a_stub() -> None:
    files = {path.relative_to(ROOT / "protos").as_posix() for path in (ROOT / "protos").rglob("*.proto")}

    assert files == {stub.DESCRIPTOR.name for stub in STUBS}
