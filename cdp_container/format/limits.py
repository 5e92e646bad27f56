"""Every limit of docs/container-format.md, section 7, by its name there.

A reader refuses what is beyond these before it allocates memory for it. tests/unit/format/test_spec.py
compares the two. Tunings of a writer do not belong here.
"""

from __future__ import annotations

from typing import Final

PREAMBLE_BYTES_MAX: Final = 65_536
KEY_BLOCK_BYTES_MAX: Final = 16_384
NOT_WHOLE_MAX: Final = 1_024
HEADER_BYTES_MAX: Final = 262_144
INDEX_BYTES_MAX: Final = 1_048_576
BULK_INDEX_BYTES_MAX: Final = 67_108_864
SECTION_OVERHEAD_BYTES_MAX: Final = 65_536
OBJECT_BYTES_MAX: Final = 16_777_216
OBJECT_BYTES_TARGET: Final = 8_388_608
CATALOG_BYTES_MAX: Final = 134_217_728
EXTENT_DATA_BYTES_MAX: Final = 65_536
EXTENT_VOID_BYTES_MAX: Final = 2_147_483_648
FRAME_RAW_BYTES_MAX: Final = 262_144
FRAME_STORED_BYTES_MAX: Final = 262_656
SUM_BLOCK_BYTES: Final = 4_096
RECORD_KEY_BYTES_MAX: Final = 65_536
RECORD_VALUE_BYTES_MAX: Final = 524_288
PARTS_MAX: Final = 64
SPACE_BYTES_MAX: Final = 9_223_372_036_854_775_807
DOMAIN_JSON_BYTES_MAX: Final = 4_194_304
REQUEST_BYTES_MAX: Final = 16_384
SEALED_CREDENTIALS_BYTES_MAX: Final = 16_384
VICTIMS_MAX: Final = 20_000
SCRYPT_N_MAX: Final = 1_048_576
SCRYPT_R_MAX: Final = 8
SCRYPT_P_MAX: Final = 4
SCRYPT_WORK_MAX: Final = 67_108_864
KEY_WRAPS_MAX: Final = 64
HOLDS_MAX: Final = 1_000
HOLD_TEXT_BYTES_MAX: Final = 1_024
HOLD_TERM_SECONDS_MAX: Final = 86_400
JSON_DEPTH_MAX: Final = 64
CUT_BYTES_MAX: Final = 2_147_483_648
