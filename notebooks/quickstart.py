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
import pandas as pd
import torch
from IPython.display import display

import tokenbench
from tokenbench import data
from tokenbench.measure import accuracy, flops, speed
from tokenbench.reports.maps import overlays
from tokenbench.runs import environment

# %matplotlib inline
torch.set_num_threads(1)

# %% [markdown]
# ## A model
#
# `build` gives a plain `nn.Module` from images to logits. The backbone is timm's, with its weights untouched; EViT
# keeps the patches that the class token attends to and fuses the others into one.

# %%
model = tokenbench.build("evit", "deit_nano", keep_rate=0.5)
batches = list(data.loader(data.sample(), model.backbone.config, batch=100, limit=200))  # Fashion-MNIST test images
images, labels = batches[0]

with torch.inference_mode():
    print(f"{(model(images).argmax(1) == labels).float().mean():.0%} of the first 100 images are right")

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
# Each measure takes any modules from images to logits. Accuracy comes with a 95 % bootstrap interval from one pass over
# the data for all models; speed is timed in turns beside dense, so that the ratio holds on a noisy machine.

# %%
settings = {
    "dense": {},
    "tome": {"r": 13},
    "evit": {"keep_rate": 0.5},
    "topk": {"keep_rate": 0.5},
    "random": {"keep_rate": 0.5},
}
models = {name: tokenbench.build(name, "deit_nano", **knobs) for name, knobs in settings.items()}
predictions = accuracy.predict(models, batches)
times = speed.measure(models, images[:32], min_rounds=8, max_seconds=1)

table = pd.DataFrame(
    {
        "method": m.method.label,
        "top-1 %": f"{predictions[name].top1:.1f}",
        "95 %": "{:.1f} to {:.1f}".format(*accuracy.bootstrap(predictions[name])),
        "GMAC": f"{flops.count(m, images[:1]).gmacs:.4f}",
        "speed-up": f"{times[name].speedup:.2f}",
    }
    for name, m in models.items()
)
print(f"{len(predictions['dense'].target)} images; speed: {environment.hardware('cpu')}, fp32, batch 32, eager")
table.set_index("method")

# %% [markdown]
# `deit_nano` was trained with patch dropout, which makes dropping patches at random look better here than elsewhere.
#
# ## What happens to an image
#
# `trace` follows every patch through the blocks. Dropped patches fade, merged ones take the mean colour of their
# cluster.

# %%
maps = [tokenbench.trace(name, "deit_nano", images[:1], **settings[name]) for name in ("tome", "evit")]
display(overlays.by_block(maps, 0))

# %% [markdown]
# From here: `tokenbench run` measures all methods and keeps the rows, `tokenbench report` makes a page of them, and
# `tokenbench trace` draws maps of your own images. The other notebooks take one subject each.
