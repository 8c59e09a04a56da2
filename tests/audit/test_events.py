import numpy as np
import pytest
from tensorboardX.crc32c import crc32c as theirs
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.proto.tensor_pb2 import TensorProto

from selfreg.integrations.audit.events import crc32c, read_events
from selfreg.integrations.audit.source import open_source


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (TensorProto(dtype=1, float_val=[0.5]), 0.5),
        (TensorProto(dtype=2, double_val=[0.25]), 0.25),
        (TensorProto(dtype=1, tensor_content=np.float32(0.75).tobytes()), 0.75),
        (TensorProto(dtype=2, tensor_content=np.float64(0.1).tobytes()), 0.1),
        (TensorProto(dtype=1, float_val=[0.5, 0.6]), None),  # more than one number, no scalar
        (TensorProto(dtype=7, string_val=[b"text"]), None),
    ],
)
def test_scalars_of_the_new_kind(tmp_path, tensor, expected):
    writer = EventsWriter(str(tmp_path / "events"))
    writer.write_event(
        Event(step=3, wall_time=7.5, summary=Summary(value=[Summary.Value(tag="x", tensor=tensor)]))
    )
    writer.close()
    (file,) = tmp_path.iterdir()
    table, started = read_events(open_source(file))
    assert started > 0
    if expected is None:
        assert table.rows == 0
    else:
        assert table.numbers["x"].values.tolist() == [expected]
        assert table.numbers["step"].values.tolist() == [3]


def test_checksums_are_those_of_tensorboard():
    rng = np.random.default_rng(0)
    records = [rng.bytes(n) for n in (1, 8, 8, 0, 300, 57)]
    assert crc32c(records).tolist() == [theirs(record) for record in records]
