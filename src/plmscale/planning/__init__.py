"""What a study costs before it is started: GPUs, hours, disk and money, by simulation.

rates (share of the peak by size) and packing (runs that share a GPU) say how fast a GPU is; sizing
gives each run its GPUs and hours; work makes jobs of what is left; simulate places them on a
cluster (pool); storage follows the disk through that schedule; report puts all of it together,
text and figures.gantt show it; command is `plmscale plan`. No torch.
"""
