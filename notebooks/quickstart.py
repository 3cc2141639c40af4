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
# # Quickstart
#
# Token sparsification makes a vision transformer cheaper by dropping, merging or condensing its patch tokens. Here one
# method is put on a small model, what it saves is counted, and what it does to an image is looked at. Model and images
# ship with tokenbench, so this runs anywhere, without a network.

# %%
import torch
from IPython.display import display

import tokenbench
from tokenbench.data import pictures
from tokenbench.measure import flops
from tokenbench.reports.maps import overlays

# %matplotlib inline
torch.set_num_threads(1)

# %% [markdown]
# ## A model
#
# `build` gives a plain `nn.Module` from images to logits. The backbone is timm's, with its weights untouched; EViT
# keeps the patches that the class token attends to and fuses the others into one.

# %%
model = tokenbench.build("evit", "deit_nano", keep_rate=0.5)
names, photographs = pictures.sample(grey=True, limit=3)  # Fashion-MNIST test images
images = pictures.inputs(photographs, model.config)

with torch.inference_mode():
    print(dict(zip(names, model(images).argmax(1).tolist(), strict=True)), "of", model.num_classes, "classes")

# %% [markdown]
# Your own timm model goes in as it is, `tokenbench.build("evit", my_vit)`, and so does any timm name.
#
# ## What is saved
#
# The tokens after each block follow from `run`. Multiply-adds are counted by two counters that must agree, predictors
# and matching included; papers call this number "FLOPs".

# %%
out = model.run(images[:1])
print("tokens after each block:", [tokens.count for tokens in out.trace])
print(f"{flops.count(model, images[:1]).gmacs:.4f} GMAC an image")

# %% [markdown]
# ## Methods side by side
#
# `tokenbench.run` is the command of that name, its options are the flags, and it gives a table of pandas. All methods
# see the same images; speed is timed in turns beside dense, so that the ratio holds on a noisy machine. The rows are
# kept in `results.jsonl`: what is in there is not measured again.

# %%
settings = "dense,tome[r=13],evit[keep_rate=0.5]"
table = tokenbench.run(methods=settings, limit=100, batch_size=8, rounds=3, max_seconds=2, quiet=True)
row = table.iloc[0]
print(f"{row.images:.0f} images of {row.dataset}; speed: {row.hardware}, {row.precision}, batch {row.batch}, eager")
table.set_index("label")[["top1", "top1_low", "top1_high", "gmacs", "speedup"]].round(3)

# %% [markdown]
# ## Which to use
#
# `choose` bounds what each setting loses, by the images that both models saw, and says so if they are too few.

# %%
choice = tokenbench.choose(table, max_drop=5.0)
print(choice.attrs["answer"])
choice.set_index("label")[["keeps", "difference", "low", "high", "lost_at_most"]].round(2)

# %% [markdown]
# ## What happens to an image
#
# `trace` follows every patch through the blocks. Dropped patches fade, merged ones take the mean colour of their
# cluster.

# %%
knobs = {"tome": {"r": 13}, "evit": {"keep_rate": 0.5}}
maps = [tokenbench.trace(name, "deit_nano", photographs[:1], **knobs[name]) for name in knobs]
display(overlays.by_block(maps, 0))

# %% [markdown]
# From here: `tokenbench.report(table)` makes a page of the rows, and `tokenbench.compare(table, "tome", "evit")` holds
# two against each other, image by image. The other notebooks take one subject each.
