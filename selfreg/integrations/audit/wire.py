"""The protocol buffers of TensorBoard and W&B that scalars need.

The messages are declared here with the field numbers of the original .proto files, because the
packages that contain them take seconds to load torch or a web server.
"""

from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

__all__ = ["DecodeError", "messages"]

_TYPES = {
    "double": 1, "float": 2, "int64": 3, "int32": 5, "string": 9, "bytes": 12,
}  # fmt: skip
# message -> field -> (number, type, repeated); a type may be another message of this schema.
_SCHEMA: dict[str, dict[str, tuple[int, str, bool]]] = {
    "Tensor": {
        "dtype": (1, "int32", False), "tensor_content": (4, "bytes", False),
        "float_val": (5, "float", True), "double_val": (6, "double", True),
        "int_val": (7, "int32", True), "int64_val": (10, "int64", True),
    },
    "Value": {
        "tag": (1, "string", False), "simple_value": (2, "float", False),
        "tensor": (8, "Tensor", False),
    },
    "Summary": {"value": (1, "Value", True)},
    "Event": {
        "wall_time": (1, "double", False), "step": (2, "int64", False),
        "file_version": (3, "string", False), "summary": (5, "Summary", False),
    },
    "Item": {
        "key": (1, "string", False), "nested_key": (2, "string", True),
        "value_json": (16, "string", False),
    },
    "Step": {"num": (1, "int64", False)},
    "History": {"item": (1, "Item", True), "step": (2, "Step", False)},
    "Config": {"update": (1, "Item", True)},
    "Run": {
        "run_id": (1, "string", False), "config": (4, "Config", False),
        "display_name": (8, "string", False),
    },
    "Record": {
        "history": (2, "History", False), "config": (5, "Config", False),
        "run": (17, "Run", False),
    },
}  # fmt: skip


@cache
def messages() -> dict[str, Any]:
    """Build the message classes: Event of TensorBoard, Record of W&B, and their parts."""
    file = descriptor_pb2.FileDescriptorProto(
        name="selfreg_audit.proto", package="selfreg_audit", syntax="proto2"
    )
    for name, fields in _SCHEMA.items():
        message = file.message_type.add(name=name)
        for key, (number, kind, repeated) in fields.items():
            own = kind in _SCHEMA
            message.field.add(
                name=key, number=number, label=3 if repeated else 1,
                type=11 if own else _TYPES[kind],
                type_name=f".selfreg_audit.{kind}" if own else None,
            )  # fmt: skip
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"selfreg_audit.{name}"))
        for name in _SCHEMA
    }
