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
# # Attention clusters
#
# STViT replaces 196 patch tokens by a few semantic ones, each a weighted mean of patches by its attention. Here the
# attention is looked at in two ways: as clusters, where each patch belongs to the token that takes most of it, and as
# one heat map a token.

# %%
import warnings

import numpy as np
import pandas as pd
from IPython.display import display

import tokenbench
from tokenbench.data import pictures
from tokenbench.maps.arrays import agreement
from tokenbench.reports.maps import numbers, overlays

# %matplotlib inline
warnings.filterwarnings("ignore", message=".*random")

# %% [markdown]
# ## Maps of a few images
#
# `trace` takes files, PIL images or a batch, and gives plain numpy arrays. These are test images of Fashion-MNIST, the
# data that `deit_nano` was trained on; each is seen as 14×14 patches of two pixels.

# %%
names, images = pictures.sample(grey=True, limit=3)
stvit = tokenbench.trace("stvit", "deit_nano", images)
print(stvit.label, "after each block:", stvit.counts)
print("weights are trained for the method:", "untrained" not in stvit.note)

# %% [markdown]
# ## Clusters, and each token's attention
#
# On the left every patch has the colour of its token. On the right each token's attention is drawn up to its own
# maximum, in a frame of the same colour.

# %%
display(overlays.semantic(stvit, 0))

# %% [markdown]
# The same as arrays: `heat()` is the attention of each token over the patches, `clusters()` its argmax.

# %%
heat, clusters = stvit.heat()[0], stvit.clusters()[0]
print("heat", heat.shape, " clusters", clusters.shape)
order = np.argsort(-np.bincount(clusters[clusters >= 0], minlength=len(heat)))
pd.DataFrame(
    {
        "token": order + 1,
        "patches": [(clusters == token).sum() for token in order],
        "peak of attention": [f"{heat[token].max():.3f}" for token in order],
    }
).head(6).set_index("token")

# %% [markdown]
# ## How clusters of other methods compare
#
# ToMe arrives at clusters by merging similar tokens, with no training. Normalised mutual information says how much two
# clusterings of the same image share: 1 if they are equal, 0 if they know nothing of each other.

# %%
tome = tokenbench.trace("tome", "deit_nano", images, r=15)
_, shared = agreement(stvit, tome)
print("NMI of the clusters:", dict(zip(names, shared.round(2).tolist(), strict=True)))
numbers.summary([stvit, tome]).set_index("method")

# %%
display(overlays.by_image([tome, stvit]))

# %% [markdown]
# ## On photographs
#
# A `vit_ti` fine-tuned on photographs of ten classes, every method from the same start with the same budget
# ([how, and what each costs in accuracy](../benchmarks/photographs/README.md)): STViT's 16 tokens, what EViT and
# DynamicViT keep, what ToMe merges.
#
# ![a butterfly, and what the four make of it](../benchmarks/photographs/figures/maps_vit_ti_monarch.jpg)
#
# How STViT's clusters came about, after 10, 50, 100, 200 and 310 updates:
#
# ![six photographs and their clusters during training](../benchmarks/photographs/figures/training.png)

# %% [markdown]
# On images of your own, `tokenbench trace --methods tome,stvit --backbone vit_ti --images DIR` draws all of this, and
# writes `maps.html`: choose image, methods and block there, and click a cluster to see its token's attention.
