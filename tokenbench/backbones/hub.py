"""Files of the hub: from its cache first, and no long wait where it does not answer."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenbench.errors import first_sentence

HUB_SECONDS = 5.0  # how long the hub may take to answer at all, name look-up included


def pretrained(config: Mapping[str, Any]) -> Path:
    """The file of a model's pretrained weights, from the cache or the hub; raises an error that says why not."""
    from huggingface_hub import constants

    if not config.get("hf_hub_id"):
        raise LookupError("the hub has none")
    repo, _, revision = config["hf_hub_id"].partition("@")
    given = config.get("hf_hub_filename")
    names = (given,) if given else (constants.SAFETENSORS_SINGLE_FILE, constants.PYTORCH_WEIGHTS_NAME)
    return from_hub(repo, names, revision or None)


def from_hub(repo: str, names: Sequence[str], revision: str | None = None) -> Path:
    """The first of the named files that a repository has, from the cache or the hub; raises an error that says why not.

    `HF_HOME`, `HF_ENDPOINT` and `HF_HUB_OFFLINE` are honoured.
    """
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError

    for name in names:
        cached = try_to_load_from_cache(repo, name, revision=revision)
        if isinstance(cached, str):
            return Path(cached)
    if constants.HF_HUB_OFFLINE:
        raise ConnectionError("HF_HUB_OFFLINE is set and the cache does not have them")
    _reach(constants.ENDPOINT)
    for name in names:
        try:
            return Path(hf_hub_download(repo, name, revision=revision, etag_timeout=HUB_SECONDS))
        except EntryNotFoundError:
            continue
    raise FileNotFoundError(f"{repo} has no {' or '.join(names)}")


def _reach(endpoint: str) -> None:
    """Raise `ConnectionError` unless the hub answers in `HUB_SECONDS`: its own client retries for half a minute."""
    from huggingface_hub import get_session

    failures: list[str] = ["no answer in time"]

    def ask() -> None:
        try:
            status = get_session().head(endpoint, timeout=HUB_SECONDS).status_code
            failures[:] = [f"status {status}"] if status >= 500 else []
        except Exception as error:  # of whichever HTTP library the hub's client uses
            failures[:] = [first_sentence(error)]

    asking = threading.Thread(target=ask, daemon=True)  # no timeout of a request covers the name look-up
    asking.start()
    asking.join(HUB_SECONDS)
    if failures:
        raise ConnectionError(f"{endpoint} does not answer: {failures[0]}")
