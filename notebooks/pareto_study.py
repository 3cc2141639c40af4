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
# # A Pareto study
#
# Which method gives the most accuracy for a budget of multiply-adds? Here a sweep of settings is measured on the images
# that ship, and the settings that no other beats in both are joined to a front. On a subset of images most differences
# lie within the noise, and the intervals say so.

# %%
import matplotlib.pyplot as plt
import torch

import tokenbench
from tokenbench.reports import style

# %matplotlib inline
torch.set_num_threads(1)

# %% [markdown]
# ## The sweep
#
# Options are the flags of `tokenbench run`. Rows are appended to `results.jsonl`, and what is there already is not
# measured again.

# %%
sweep = "tome[r=8,13,16],evit[keep_rate=0.5,0.7],topk[keep_rate=0.5,0.7],random[keep_rate=0.5,0.7],dense"
table = tokenbench.run(methods=sweep, limit=400, batch_size=8, rounds=3, max_seconds=5, quiet=True)
shown = ["top1", "diff_dense", "diff_dense_low", "diff_dense_high", "gmacs"]
table.set_index("label")[shown].round(4)

# %% [markdown]
# ## The front
#
# A setting is on the front if none is both cheaper and more accurate. Accuracy does not depend on the machine, and
# neither do multiply-adds, so this front holds wherever these weights and images are.

# %%
ranked = table.sort_values("gmacs")
front = ranked[ranked["top1"] > ranked["top1"].cummax().shift(fill_value=-1)]
print("on the front:", ", ".join(front["label"]))

figure, axes = plt.subplots(figsize=(6, 3.6), dpi=110, layout="constrained")
axes.step(front["gmacs"], front["top1"], where="post", color="#bbbbbb", zorder=0)
for method, group in table.groupby("method"):
    colour = style.colour(method)
    noise = [group["top1"] - group["top1_low"], group["top1_high"] - group["top1"]]
    axes.errorbar(
        group["gmacs"], group["top1"], noise, color=colour, marker="o", ms=5, lw=1, elinewidth=0.6, label=method
    )
axes.set(xlabel="GMAC an image", ylabel="top-1 %", title="deit_nano, 400 test images of Fashion-MNIST")
axes.spines[["top", "right"]].set_visible(False)
axes.legend(frameon=False, loc="lower right")
plt.show()

# %% [markdown]
# ## Is a difference more than noise?
#
# Models that see the same images can be compared in pairs, which is much sharper than comparing two intervals. The row
# has the paired difference from dense with its interval; where that contains 0, nothing is shown.

# %%
beyond = table[(table["diff_dense_low"] > 0) | (table["diff_dense_high"] < 0)]
within = table[(table["method"] != "dense") & ~table["label"].isin(beyond["label"])]
print("differs from dense:", ", ".join(beyond["label"]) or "none")
print("within the noise:  ", ", ".join(within["label"]) or "none")

# %% [markdown]
# ## A decision
#
# From all that stand to choose, the one that is sure to lose no more than asked, corrected for having looked at many;
# and any two held against each other on the images that both saw.

# %%
print(tokenbench.choose(table, max_drop=5.0, by="gmacs").attrs["answer"])
both = tokenbench.compare(table, "tome[r=16]", "evit[keep_rate=0.5]")
both.set_index("field").loc[["top1", "gmacs"], ["from", "to", "low", "high", "p_value", "verdict"]]

# %% [markdown]
# `tokenbench.report(table)` draws such charts for every axis: latency and images/s as well, dominated settings
# greyed, published numbers beside the measured ones. On your own data: `tokenbench run --data-dir DIR`.
