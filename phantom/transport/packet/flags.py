"""Packet flags and the complete flag words that senders use (wire-native §10.4).

The low byte is common to both versions; the high byte exists only in V2.
"""

from __future__ import annotations

from typing import Final

RELIABLE: Final = 0x0001
ACK: Final = 0x0002
FIN: Final = 0x0004
UNRELIABLE: Final = 0x0008
PRIORITY: Final = 0x0010
ENCRYPTED: Final = 0x0020
COMPRESSED: Final = 0x0040
CONTROL: Final = 0x0080
REKEY: Final = 0x0100
PATH_VALIDATION: Final = 0x0200
COALESCED: Final = 0x0400
WINDOW_UPDATE: Final = 0x0800
KEEPALIVE: Final = 0x1000
PADDED: Final = 0x2000
COVER: Final = 0x4000

# Whole words; V2 senders add REKEY while unconfirmed.
DATA: Final = ENCRYPTED | RELIABLE
DATA_FIN: Final = DATA | FIN
UNRELIABLE_WORD: Final = ENCRYPTED | UNRELIABLE
ACK_WORD: Final = ENCRYPTED | ACK
WINDOW_WORD: Final = ENCRYPTED | WINDOW_UPDATE
COALESCED_WORD: Final = ENCRYPTED | COALESCED | UNRELIABLE
PING: Final = ENCRYPTED | KEEPALIVE
PONG: Final = PING | ACK
CHALLENGE: Final = ENCRYPTED | PATH_VALIDATION
ATTACH_UDP: Final = CHALLENGE | PADDED
RESPONSE: Final = CHALLENGE | ACK
CLOSE: Final = ENCRYPTED | CONTROL | PADDED
CLOSE_V1: Final = ENCRYPTED | CONTROL
COVER_WORD: Final = ENCRYPTED | COVER | PADDED
