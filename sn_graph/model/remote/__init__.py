"""Remote files: models on object stores and other hosts, by URL, through fsspec."""

from sn_graph.lazy import lazily

with lazily(__name__):
    from sn_graph.model.remote.beside import files_beside
    from sn_graph.model.remote.fetch import Fetched, Held, fetched, fetched_slice
    from sn_graph.model.remote.publish import placed, publish
    from sn_graph.model.remote.urls import FileSystem, is_url, local_path, open_store, store_errors, url_name

__all__ = [
    "Fetched",
    "FileSystem",
    "Held",
    "fetched",
    "fetched_slice",
    "files_beside",
    "is_url",
    "local_path",
    "open_store",
    "placed",
    "publish",
    "store_errors",
    "url_name",
]
