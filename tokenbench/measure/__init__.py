"""What can be measured on any module from images to logits: accuracy, FLOPs, speed, memory and token counts.

Each module stands alone and knows no method. Where a number is about blocks or reducers, it is read from
`tokenbench.model.Model` and is None or empty for other modules.
"""
