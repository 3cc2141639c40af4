"""Models saved to a folder or the Hugging Face Hub, and read from there, by huggingface_hub's mixin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelHubMixin, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

from tokenbench import __version__
from tokenbench.errors import WeightsError
from tokenbench.methods import get
from tokenbench.methods.base import make
from tokenbench.model import Model
from tokenbench.shipping import card
from tokenbench.shipping.header import preprocessing
from tokenbench.weights import files, models, told

FILE = "model.safetensors"


class Pretrained(Model, ModelHubMixin, library_name="tokenbench", pipeline_tag="image-classification"):
    """A model that `save_pretrained(folder)` saves whole, `push_to_hub(name)` too, and `from_pretrained` reads again.

    What is saved can be used as weights in every command, too. A row of results, as `tokenbench.runs.results.load`
    gives them, goes into the model card by `save_pretrained(folder, model_card_kwargs={"row": row})`.
    """

    def _save_pretrained(self, save_directory: Path) -> None:
        backbone, method = self.backbone, self.method
        size = backbone.input_size
        setting = method.model_dump(mode="json")
        header = {
            "method": method.name,
            "setting": setting,
            "backbone": backbone.name,
            "classes": backbone.vit.num_classes,
            "class_names": list(backbone.class_names) if backbone.class_names else None,
            "image_size": list(size[1:]),
            "version": __version__,
            **told.kept("avg" if getattr(backbone.vit, "global_pool", None) == "avg" else None, backbone.pixels),
        }
        files.save(save_directory / FILE, self, header)
        config = {**header, "input_size": list(size), "preprocessing": preprocessing(backbone).model_dump(mode="json")}
        (save_directory / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **how: Any) -> Pretrained:  # type: ignore[override]
        """A saved model, in eval mode.

        Raises:
            WeightsError: there is no such model, or tokenbench did not save it.
        """
        path = _located(model_id, how)
        header = files.header(path)
        try:
            setting = make(get(header["method"]), header["setting"])
            name, size = header["backbone"], tuple(header["image_size"])
        except KeyError as error:
            raise WeightsError(
                f"{model_id} was not saved by save_pretrained (its file has no {error}); give it to "
                "tokenbench.build(method, backbone, weights=…)."
            ) from None
        model, _ = models.made(setting, name, str(path), image_size=size, kind=cls)
        return model  # type: ignore[return-value]

    def generate_model_card(self, *args: Any, row: Any = None, name: str = "OWNER/NAME", **kwargs: Any) -> ModelCard:
        """The model card, with the row that was measured, if one is given; `name` is where it is on the hub."""
        return card.make(self, row, name)


def _located(model_id: str, how: Any) -> Path:
    folder = Path(model_id)
    if folder.is_dir():
        if not (folder / FILE).is_file():
            raise WeightsError(f"Folder '{model_id}' has no {FILE}; give one that save_pretrained wrote.")
        return folder / FILE
    keys = ("revision", "cache_dir", "force_download", "local_files_only", "token")
    try:
        return Path(hf_hub_download(model_id, FILE, **{key: how[key] for key in keys if key in how}))
    except (EntryNotFoundError, OSError, ValueError) as error:
        why = str(error).strip().splitlines()[0].rstrip(".")
        raise WeightsError(f"{model_id} is no folder here and cannot be had from the hub ({why}).") from None
