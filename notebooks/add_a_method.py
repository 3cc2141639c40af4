# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Add a method
#
# A method is one class that says how tokens change; measuring, counting and drawing come for free. Here one is written
# from nothing, checked, measured beside the others and looked at.

# %%
import pandas as pd
import torch
from IPython.display import display
from pydantic import Field

import tokenbench
from tokenbench import Method, Model, Reducer, data
from tokenbench.maps.following import follow
from tokenbench.measure import accuracy, flops
from tokenbench.reports.maps import overlays

# %matplotlib inline
torch.set_num_threads(1)


# %% [markdown]
# ## The idea
#
# Keep the patches whose features are largest. A `Reducer` is one place in a block where tokens change, here after it;
# it changes them only by the verbs of `Tokens`: `keep`, `group`, `mix`. The fields of the `Method` are its knobs.


# %%
class Largest(Reducer):
    where = "after"

    def forward(self, tokens, attn):
        norms = tokens.patches.norm(dim=-1)  # (B, N)
        count = max(1, int(self.method.share * norms.shape[1]))
        return tokens.keep(norms.topk(count, dim=1).indices)


class Norms(Method):
    """Keep the patches with the largest features after one block."""

    name = "norms"
    main = "share"
    neutral = {"share": 1.0}

    share: float = Field(0.5, gt=0, le=1, description="share of the patches that stay")
    block: int = Field(3, ge=0, description="the block after which patches go")

    def reducers(self, vit):
        return {self.block: [Largest()]}


# %% [markdown]
# ## Does it do nothing where it should do nothing?
#
# At its neutral setting a method must equal the timm model. Tokens come back in order of norm, which attention does not
# see but rounding does; so the logits are equal up to that.

# %%
dense = tokenbench.build("dense", "deit_nano")
batches = list(data.loader(data.sample(), dense.config, batch=100, limit=300))
images = batches[0][0]

with torch.inference_mode():
    neutral = Model(dense.backbone, Norms(share=1.0)).eval()
    difference = (neutral(images) - dense(images)).abs().max()
print("equal:", bool(difference < 1e-4))

# %% [markdown]
# ## Beside the others
#
# Nothing had to be told about the new method: its tokens, multiply-adds and accuracy are measured as those of any
# other. The gap in multiply-adds is the block's MLP, which still sees all patches where they go only after the block.

# %%
models = {
    "norms": Model(dense.backbone, Norms(share=0.3)).eval(),
    "topk": tokenbench.build("topk", "deit_nano", keep_rate=0.3, blocks=(3,)),
    "random": tokenbench.build("random", "deit_nano", keep_rate=0.3, blocks=(3,)),
}
predictions = accuracy.predict(models, batches)
pd.DataFrame(
    {
        "method": model.method.label,
        "tokens": model.run(images[:1]).trace[-1].count,
        "GMAC": f"{flops.count(model, images[:1]).gmacs:.4f}",
        "top-1 %": f"{predictions[name].top1:.1f}",
        "95 %": "{:.1f} to {:.1f}".format(*predictions[name].interval),
    }
    for name, model in models.items()
).set_index("method")

# %% [markdown]
# ## What it keeps
#
# The verbs carry the map from patches to tokens along, so there is a picture of it at once.

# %%
maps = [follow(model.method, dense.backbone, images[[0, 3]], ("first", "fourth")) for model in models.values()]
display(overlays.by_image(maps))

# %% [markdown]
# ## To share it
#
# In a file `norms.py` of its own it needs no installing, and takes sweeps and the contract tests like the others:
#
#     table = tokenbench.run(plugin="norms.py", methods="norms[share=0.3,0.5],topk")
#     tokenbench.choose(table, max_drop=5.0).attrs["answer"]
#
# and on the command line `tokenbench check norms.py`. `tokenbench new norms` writes such a file to begin from, and what
# makes a package of it; `docs/add_a_method.md` says what makes it a part of tokenbench.
