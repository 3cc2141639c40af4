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
# # Compare with published numbers
#
# Every method carries the numbers its authors printed, with their conditions. What needs no weights can be checked
# anywhere: here the multiply-adds of each published setting are counted on the backbone it was published for.

# %%
import warnings

import pandas as pd
import torch

import tokenbench
from tokenbench.backbones import random_images
from tokenbench.measure import flops
from tokenbench.methods import all_methods

torch.set_num_threads(1)
warnings.filterwarnings("ignore", message=".*random")
warnings.filterwarnings("ignore", message=".*fewer than r go")  # as published

# %% [markdown]
# ## What was published
#
# Trained and training-free numbers never share a column: a method that was trained for weeks and one that was put on
# finished weights are two different offers. This is what there is for one backbone.

# %%
published = [(cls(**reported.settings), reported) for cls in all_methods().values() for reported in cls.reported]
table = pd.DataFrame(
    {
        "setting": method.label,
        "trained top-1 %": reported.top1 if reported.trained else None,
        "training-free top-1 %": None if reported.trained else reported.top1,
        "GMAC": reported.gmacs,
        "note": reported.note,
    }
    for method, reported in published
    if reported.backbone == "deit_s"
)
table.set_index("setting").astype(object).fillna("–")

# %% [markdown]
# ## Counted here
#
# Weights do not change how much is computed, so random ones do. Papers round to one decimal and count differently: some
# leave out the predictors or the matching, others count norms, or cut digits off instead of rounding.

# %%
lines = []
for method, reported in published:
    if reported.gmacs is None or reported.backbone not in ("deit_s", "swin_t"):
        continue  # larger ones take longer and say the same
    model = tokenbench.build(method.name, reported.backbone, weights="random", **reported.settings)
    counted = flops.count(model, random_images(model.backbone, 1)).gmacs
    lines.append(
        {
            "setting": method.label,
            "backbone": reported.backbone,
            "published GMAC": reported.gmacs,
            "counted GMAC": counted,
            "difference %": f"{100 * (counted / reported.gmacs - 1):+.1f}",
        }
    )
pd.DataFrame(lines).set_index(["backbone", "setting"]).round(3)

# %% [markdown]
# ## Accuracy
#
# Accuracy needs ImageNet and, for trained methods, the authors' weights. With both at hand the same comparison is a
# call, and the page of its rows puts the published number beside every setting that is exactly the published one:
#
#     table = tokenbench.run(methods="tome[r=13],evit[keep_rate=0.7]", backbone="deit_s", data_dir="IMAGENET/val")
#     tokenbench.report(table)
