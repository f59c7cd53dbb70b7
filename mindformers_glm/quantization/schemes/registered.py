"""The table of schemes. A new one is one module and one line here."""

from __future__ import annotations

from mindformers_glm.registry import SCHEMES

_HERE = "mindformers_glm.quantization.schemes"

SCHEMES.add(f"{_HERE}.int8:Int8", "int8")
SCHEMES.add(f"{_HERE}.int8_row:Int8Row", "int8-row")
SCHEMES.add(f"{_HERE}.int4:Int4", "int4")
SCHEMES.add(f"{_HERE}.official:OfficialInt8", "official-int8")
SCHEMES.add(f"{_HERE}.official:OfficialInt4", "official-int4")
SCHEMES.add(f"{_HERE}.gptq:GPTQ", "gptq")
SCHEMES.add(f"{_HERE}.w8a8:W8A8", "w8a8")
SCHEMES.add(f"{_HERE}.w8a8_token:W8A8Token", "w8a8-token")
SCHEMES.add(f"{_HERE}.w8a8_sparse:W8A8Sparse", "w8a8-sparse")
