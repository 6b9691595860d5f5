"""Who competes in gpu_speed.py, in which order."""

from __future__ import annotations


def contestants(quick, tiny):
    """All contestants, the most telling first: `section`, `kind` and what the kind needs."""
    common = {"context": 64 if tiny else 1024, "rows": 4 if tiny else 64}
    common["seconds"] = 0.05 if tiny else 2.0 if quick else 4.0

    def one(section, kind, size, **more):
        if tiny:
            more |= {"rows": 4} if "rows" in more else {}
            more |= {"micro": 2} if more.get("micro") else {}
        size = "tiny" if tiny else size
        return {**common, "section": section, "kind": kind, "size": size, **more}

    sizes = ("85M", "650M", "25M") if quick else ("85M", "650M", "25M", "1.2B", "3M", "470M")
    ours = [one("trainer", "trainer", size, compile="on") for size in sizes]
    ours += [one("trainer", "trainer", size, compile="off") for size in ("85M", "3M")]
    forms = [("sdpa", "off"), ("sdpa", "on"), ("flash_attention_2", "off")]
    theirs = [
        one("esm", "esm", size, attention=attention, compile=compiled, micro=16)
        for size in (("85M",) if quick else ("85M", "650M"))
        for attention, compiled in forms
    ]
    packs = [
        one("pack", "pack", size, at_once=2 if tiny else count, steps=4 if tiny else steps)
        for size, steps in ((("3M", 200),) if quick else (("3M", 300), ("25M", 60)))
        for count in ((1, 4) if quick else (1, 4, 8, 2)[: 2 if tiny else None])
    ]
    kernels = [one("kernels", "attention", "85M", rows=16, seconds=common["seconds"] / 4)]
    grid = [("flex", "on", 16), ("flex", "off", 16), ("sdpa", "on", 16)]
    grid += [] if quick else [("flex", "on", rows) for rows in (4, 8, 32)] + [("eager", "on", 16)]
    kernels += [
        one("kernels", "model", "85M", kernel=kernel, compile=compiled, rows=rows)
        for kernel, compiled, rows in grid
    ]
    if not quick:
        kernels += [
            one("kernels", "model", "85M", kernel="flex", compile="on", rows=16, checkpointing=True)
        ]
    kernels += [one("kernels", "widths", "1.2B", rows=16, seconds=common["seconds"] / 8)]
    if tiny:
        # One of each kind and setting is enough.
        return [ours[0], ours[-1], *theirs[:3], packs[1], *kernels[:3], *kernels[-2:]]
    # Packs and kernels get their turn before the larger sizes.
    return [*ours[:2], *theirs[:2], *packs[:2], *kernels[:2], *ours[2:], *theirs[2:], *packs[2:],
            *kernels[2:]]  # fmt: skip
