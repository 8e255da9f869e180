"""A small language model made on the spot: a GGUF file that llama.cpp runs, random weights, fixed seed.

What it says is a string of random words. What it costs is real: a prompt of some 1500 tokens takes one core 100 to 200 ms,
and next to nothing when the server still holds it in its cache. That difference is all the demo and the tests need.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

from epp.demo.vocabulary import WORDS, byte_alphabet, learn_merges

# Part of the file's name: change it whenever anything below changes the file.
VERSION = 1
CONTEXT_TOKENS = 32768

_LAYERS = 2
_HIDDEN = 192
_HEADS = 6
_KV_HEADS = 2
_FEED_FORWARD = 512
_MERGES = 2000
_SEED = 20
_WEIGHT_SCALE = 0.08
# Large enough that a sampled token is practically always a word: every other token keeps a logit of zero.
_WORD_LOGIT_SCALE = 0.6

_PAD, _END, _TURN_START, _TURN_END = "<|pad|>", "<|end|>", "<|turn|>", "<|/turn|>"
_CONTROL_TOKENS = (_PAD, _END, _TURN_START, _TURN_END)

# Every turn is rendered by itself, so a conversation's prompt begins with the whole prompt of the turn before.
_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    f"{_TURN_START}{{{{ message['role'] }}}}\n{{{{ message['content'] }}}}{_TURN_END}"
    "{% endfor %}"
    f"{{% if add_generation_prompt %}}{_TURN_START}assistant\n{{% endif %}}"
)


def cache_dir() -> Path:
    """Where generated models are kept: ``llm-epp`` in $XDG_CACHE_HOME, or in ``~/.cache``."""
    # A relative path is to be ignored, says the XDG base directory specification.
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "llm-epp"


def ensure_model(directory: Path | None = None) -> Path:
    """The model file in ``directory`` (default: the cache directory), written first if it is not there.

    Several processes may do this at once: the file appears complete or not at all. Raises OSError.
    """
    directory = cache_dir() if directory is None else directory
    path = directory / f"demo-model-v{VERSION}.gguf"
    if path.exists():
        return path
    directory.mkdir(parents=True, exist_ok=True)
    handle, unfinished = tempfile.mkstemp(dir=directory, prefix=path.stem, suffix=".part")
    os.close(handle)
    try:
        write_model(Path(unfinished))
        Path(unfinished).replace(path)
    finally:
        Path(unfinished).unlink(missing_ok=True)
    return path


def write_model(path: Path) -> None:
    """Write the model to ``path``: the same bytes every time."""
    writer = gguf.GGUFWriter(path, "llama")
    words = _add_tokenizer(writer)
    _add_shape(writer)
    _add_weights(writer, words)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: gguf.GGUFWriter) -> npt.NDArray[np.bool_]:
    """Add vocabulary, merges and chat template. Returns one flag a token: whether it is a word to say."""
    merges = learn_merges(WORDS, _MERGES)
    # Two merges can make the same text; a token is listed once.
    learnt = list(dict.fromkeys(left + right for left, right in merges))
    tokens = [*_CONTROL_TOKENS, *byte_alphabet(), *learnt]
    types = [gguf.TokenType.CONTROL if token in _CONTROL_TOKENS else gguf.TokenType.NORMAL for token in tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([f"{left} {right}" for left, right in merges])
    writer.add_pad_token_id(tokens.index(_PAD))
    writer.add_eos_token_id(tokens.index(_END))
    writer.add_bos_token_id(tokens.index(_END))
    writer.add_add_bos_token(False)
    writer.add_chat_template(_CHAT_TEMPLATE)
    space = byte_alphabet()[ord(" ")]
    known = {f"{space}{word}" for word in WORDS}
    return np.array([token in known for token in tokens])


def _add_shape(writer: gguf.GGUFWriter) -> None:
    writer.add_name("llm-epp-demo")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_embedding_length(_HIDDEN)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(_FEED_FORWARD)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_KV_HEADS)
    writer.add_rope_dimension_count(_HIDDEN // _HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)


def _add_weights(writer: gguf.GGUFWriter, words: npt.NDArray[np.bool_]) -> None:
    """Add the tensors of ``_LAYERS`` llama blocks; only the rows of the output matrix that ``words`` marks are not zero."""
    random = np.random.default_rng(_SEED)

    def matrix(name: str, rows: int, columns: int, scale: float | npt.NDArray[np.float32] = _WEIGHT_SCALE) -> None:
        values = random.standard_normal((rows, columns), dtype=np.float32) * scale
        writer.add_tensor(name, values.astype(np.float16))

    def ones(name: str) -> None:
        writer.add_tensor(name, np.ones(_HIDDEN, dtype=np.float32))

    kv_width = _HIDDEN // _HEADS * _KV_HEADS
    matrix("token_embd.weight", len(words), _HIDDEN, 1.0)
    matrix("output.weight", len(words), _HIDDEN, np.float32(_WORD_LOGIT_SCALE) * words[:, np.newaxis])
    ones("output_norm.weight")
    for layer in range(_LAYERS):
        ones(f"blk.{layer}.attn_norm.weight")
        matrix(f"blk.{layer}.attn_q.weight", _HIDDEN, _HIDDEN)
        matrix(f"blk.{layer}.attn_k.weight", kv_width, _HIDDEN)
        matrix(f"blk.{layer}.attn_v.weight", kv_width, _HIDDEN)
        matrix(f"blk.{layer}.attn_output.weight", _HIDDEN, _HIDDEN)
        ones(f"blk.{layer}.ffn_norm.weight")
        matrix(f"blk.{layer}.ffn_gate.weight", _FEED_FORWARD, _HIDDEN)
        matrix(f"blk.{layer}.ffn_up.weight", _FEED_FORWARD, _HIDDEN)
        matrix(f"blk.{layer}.ffn_down.weight", _HIDDEN, _FEED_FORWARD)
