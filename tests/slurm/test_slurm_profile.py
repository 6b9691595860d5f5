"""A profile that does not fit the cluster stops before any job, with a line that says what to change."""

import pytest


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (
            {"node_gpu_partition": "mian"},
            "node_gpu_partition: the cluster has no partition 'mian'; did you mean main?",
        ),
        (
            {"slurm_partition": "cpu"},
            "slurm_partition: the cluster has no partition 'cpu'",
        ),
        ({"node_gpus": 4}, "node_gpus: 4, but partition 'main' has at most 2 GPUs a node"),
        ({"node_walltime": 90}, "node_walltime: 90, but partition 'main' has at most 60 minutes"),
        (
            {"node_gpu": "H1000", "node_gpu_gflops": 0},
            "node_gpu: 'H1000' is unknown; did you mean",
        ),
    ],
)
def test_one_line_names_the_entry(fresh, entries, said):
    fresh.write_profile(**entries)
    stops_with(fresh, "smoke", said)


def test_a_run_that_fits_no_node_is_named_with_what_it_needs(fresh):
    fresh.write_profile(node_gpu_gb=1, node_most=1, node_gpus=1)
    (fresh.folder / "studies/large.yaml").write_text(
        "overlays: smoke.yaml\nstudy: large\nsubsets: {}\n"
        "grid: {one: {kind: isoflop, objectives: [clm], budgets: [1.0e+21], sizes: [1.2B]}}\n"
    )
    stops_with(fresh, "large", "1.2B (1.21e+09 parameters, 256 tokens a row): needs")


def stops_with(project, study, said):
    text = project.run(study=study, check=False, timeout=60)
    lines = [line for line in text.splitlines() if "error" in line]
    assert len(lines) == 1 and lines[0].startswith("plmscale: error: "), text
    assert said in lines[0] and "Traceback" not in text
    assert not (project.folder / "results").exists() and not project.cluster.jobs()
