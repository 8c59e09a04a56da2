"""Read Parquet files of metrics or of samples."""

from typing import Any

import numpy as np

from selfreg.integrations.audit.source import Source
from selfreg.integrations.audit.table import Column, Labels, Table


def is_parquet(head: bytes) -> bool:
    """Return whether a file begins like a Parquet file."""
    return head.startswith(b"PAR1")


def read_parquet(source: Source) -> Table:
    """Read the numbers and texts of a Parquet file.

    Raises:
      ValueError: The file is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(source.path)
        read = file.read()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{source.path} is a damaged Parquet file: {error}") from None
    numbers, texts = {}, {}
    for name in read.column_names:
        column = read.column(name)
        if pa.types.is_boolean(column.type):
            column = column.cast(pa.int8())
        if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
            numbers[name] = _numbers(column)
        else:
            texts[name] = _labels(column)
    return Table("Parquet", read.num_rows, numbers, texts)


def _numbers(column: Any) -> Column:
    there = np.asarray(column.is_valid())
    return Column(np.flatnonzero(there), np.asarray(column.drop_null(), np.float64))


def _labels(column: Any) -> Labels:
    import pyarrow as pa

    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        column = pa.array([None if v is None else str(v) for v in column.to_pylist()])
    there = np.asarray(column.is_valid())
    coded = (
        column.drop_null().combine_chunks()
        if hasattr(column, "combine_chunks")
        else column.drop_null()
    )
    coded = coded.dictionary_encode()
    return Labels(
        np.flatnonzero(there), np.asarray(coded.indices, np.int64), coded.dictionary.to_pylist()
    )
