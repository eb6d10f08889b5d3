from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class AddRequest(_message.Message):
    __slots__ = ("amount", "note")
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    amount: int
    note: str
    def __init__(self, amount: _Optional[int] = ..., note: _Optional[str] = ...) -> None: ...

class Count(_message.Message):
    __slots__ = ("value", "last_note")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LAST_NOTE_FIELD_NUMBER: _ClassVar[int]
    value: int
    last_note: str
    def __init__(self, value: _Optional[int] = ..., last_note: _Optional[str] = ...) -> None: ...
