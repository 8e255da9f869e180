"""The table of in-tree parsers."""

from __future__ import annotations

from typing import Final

from epp.api import Parser
from epp_plugins.parsers.anthropic_parser import AnthropicParser
from epp_plugins.parsers.openai_parser import OpenAIParser
from epp_plugins.parsers.passthrough_parser import PassthroughParser
from epp_plugins.parsers.sglanghttp_parser import SglangHttpParser
from epp_plugins.parsers.vertexai_parser import VertexAIParser
from epp_plugins.parsers.vllmgrpc_parser import VLLMGrpcParser
from epp_plugins.parsers.vllmhttp_parser import VLLMHttpParser

PARSERS: Final[tuple[type[Parser], ...]] = (
    OpenAIParser,
    AnthropicParser,
    VLLMHttpParser,
    SglangHttpParser,
    VLLMGrpcParser,
    VertexAIParser,
    PassthroughParser,
)
