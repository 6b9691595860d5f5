"""List scheduling: known optima, bounds, and schedules that a checker of its own accepts."""

import math
import random
from itertools import permutations

import pytest

from plmscale.errors import PlmscaleError
from plmscale.planning.pool import Pool
from plmscale.planning.simulate import Job, simulate


def check(schedule, jobs, nodes):
    """Assert that each job has its GPUs in whole and alone, where it may be, after its parents."""
    placed = {p.job.name: p for p in schedule.placed}
    assert set(placed) == {job.name for job in jobs} and len(placed) == len(schedule.placed)
    node_of = [n for n, size in enumerate(nodes) for _ in range(size)]
    changes = []
    for p in placed.values():
        assert p.end == p.start + p.job.hours and p.start >= schedule.begin
        assert len(set(p.gpus)) == len(p.gpus) == p.job.gpus
        homes = {node_of[g] for g in p.gpus}
        if p.job.gpus <= max(nodes):
            assert len(homes) == 1
        else:
            assert len(homes) * max(nodes) == p.job.gpus
        assert all(placed[name].end <= p.start for name in p.job.after)
        for gpu in p.gpus:
            changes += [(p.end, 0, gpu, -1 / p.job.slots), (p.start, 1, gpu, 1 / p.job.slots)]
    used = [0.0] * sum(nodes)
    for _, _, gpu, change in sorted(changes):
        used[gpu] += change
        assert -1e-9 < used[gpu] < 1 + 1e-9
    assert schedule.makespan == max(p.end for p in placed.values())
    assert schedule.makespan >= schedule.lower_bound * (1 - 1e-12)


def random_jobs(rng, count, widths=(1,), parts=(1,), after=0.3):
    jobs = []
    for i in range(count):
        slots = rng.choice(parts)
        gpus = rng.choice(widths) if slots == 1 else 1
        parents = rng.sample(range(i), min(i, rng.choice((1, 2)))) if rng.random() < after else ()
        names = tuple(f"j{p}" for p in parents)
        jobs.append(Job(f"j{i}", rng.choice((1, 2, 3, 5, 8)) * rng.random(), gpus, slots, names))
    return jobs


def test_a_chain_takes_as_long_as_its_jobs():
    jobs = [Job("a", 2), Job("b", 3, after=("a",)), Job("c", 4, after=("b",)), Job("d", 1)]
    found = simulate(jobs, [4])
    check(found, jobs, [4])
    assert found.makespan == 9 and found.path == ["a", "b", "c"] and found.path_hours == 9
    assert found.work_hours == 2.5 and found.utilisation == pytest.approx(10 / 36)


def test_the_longest_path_goes_first():
    # In order of names, or of hours, x would wait for a second round: 7 hours instead of 5.
    jobs = [Job("a", 2), Job("b", 2), Job("x", 1), Job("y", 4, after=("x",)), Job("c", 1)]
    found = simulate(jobs, [2])
    check(found, jobs, [2])
    assert found.makespan == 5


def test_jobs_that_fill_the_gpus_exactly_have_no_gap():
    jobs = [Job(f"w{i}", 6, 8) for i in range(2)] + [Job(f"s{i}", 3, 4) for i in range(8)]
    found = simulate(jobs, [8, 8])
    check(found, jobs, [8, 8])
    assert found.makespan == 12 and found.utilisation == 1


def test_small_runs_share_gpus_and_wait_where_all_parts_are_taken():
    jobs = [Job(f"s{i}", 1, slots=8) for i in range(16)] + [Job("t", 1, slots=2)]
    found = simulate(jobs, [1])
    check(found, jobs, [1])
    assert found.makespan == 3 and found.gpu_hours == 2.5


def test_a_job_of_two_nodes_takes_whole_ones():
    jobs = [Job("a", 1, 1), Job("wide", 2, 16)]
    found = simulate(jobs, [8, 8, 8])
    check(found, jobs, [8, 8, 8])
    assert found.makespan == 2
    assert simulate(jobs, [8, 8]).makespan == 3


def test_the_last_node_may_be_smaller_and_then_serves_small_jobs_alone():
    jobs = [Job("wide", 2, 16), *(Job(f"s{i}", 1) for i in range(8))]
    found = simulate(jobs, [8, 8, 4])
    check(found, jobs, [8, 8, 4])
    assert found.makespan == 2


def list_schedule(order, machines):
    """The plainest list scheduler of sequential jobs, in the order given."""
    ends, free = {}, [0.0] * machines
    for job in order:
        ready = max((ends[name] for name in job.after), default=0.0)
        at = min(range(machines), key=lambda m: (max(free[m], ready), -free[m]))
        ends[job.name] = free[at] = max(free[at], ready) + job.hours
    return max(ends.values())


def optimum(jobs, machines):
    """The shortest schedule: one of the orders that put parents first has it."""
    best = math.inf
    for order in permutations(jobs):
        seen = set()
        if all(set(job.after) <= seen and not seen.add(job.name) for job in order):
            best = min(best, list_schedule(order, machines))
    return best


@pytest.mark.parametrize("seed", range(12))
def test_sequential_jobs_are_within_grahams_bound_of_the_optimum(seed):
    rng = random.Random(seed)
    machines = rng.choice((2, 3))
    jobs = random_jobs(rng, 7, after=0.5)
    found = simulate(jobs, [1] * machines)
    check(found, jobs, [1] * machines)
    best = optimum(jobs, machines)
    assert found.lower_bound <= best * (1 + 1e-12)
    assert best * (1 - 1e-12) <= found.makespan <= (2 - 1 / machines) * best * (1 + 1e-12)


def test_grahams_own_example_stays_within_his_bound():
    # Longest first on two machines: 3 + 2 + 2 beside 3 + 2; the best is 6.
    jobs = [Job(name, hours) for name, hours in zip("abcde", (3, 3, 2, 2, 2), strict=True)]
    assert optimum(jobs, 2) == 6 and simulate(jobs, [1, 1]).makespan == 7


@pytest.mark.parametrize("seed", range(8))
def test_mixed_jobs_never_exceed_the_cluster(seed):
    rng = random.Random(100 + seed)
    nodes = rng.choice(([8, 8, 8, 8], [4, 4, 2], [8], [2] * 6))
    widest, whole = max(nodes), sum(1 for size in nodes if size == max(nodes))
    widths = [w for w in (1, 2, 4, 8) if w <= widest]
    widths += [widest * k for k in (2, 4) if k <= whole]
    jobs = random_jobs(rng, 300, widths, (1, 1, 2, 4, 8))
    found = simulate(jobs, nodes, begin=7.0)
    check(found, jobs, nodes)
    # Two of what bounds it from below, and the widest job's own turn: far from a broken schedule.
    assert found.makespan < 7 + 2.2 * (found.lower_bound - 7)


def test_equal_jobs_give_an_equal_schedule_in_any_order():
    jobs = random_jobs(random.Random(5), 200, (1, 2, 4, 8, 16), (1, 2, 8))
    shuffled = random.Random(6).sample(jobs, len(jobs))
    first, second = simulate(jobs, [8, 8]), simulate(shuffled, [8, 8])
    assert first.placed == second.placed and first.path == second.path


def test_a_wide_job_is_not_kept_waiting_by_small_ones():
    # Ready at 1; at no moment are four GPUs free by themselves, as the small ones end one by one.
    small = [Job(f"s{i:02}", 2 + i / 16) for i in range(32)]
    jobs = [*small, Job("first", 1), Job("wide", 30, 4, after=("first",))]
    found = simulate(jobs, [4])
    check(found, jobs, [4])
    placed = {p.job.name: p for p in found.placed}
    running = [p.end for p in found.placed if p.start < 1 < p.end]
    assert placed["wide"].start == max(running)


def test_gaps_before_a_wide_job_are_used_by_what_ends_in_time():
    jobs = [
        Job("long", 5), Job("wide", 20, 2, after=("first",)), Job("first", 1),
        Job("fits", 3.5), Job("too long", 4.5),
    ]  # fmt: skip
    found = simulate(jobs, [2])
    check(found, jobs, [2])
    start = {p.job.name: p.start for p in found.placed}
    assert start["first"] == 0 and start["wide"] == 5 and start["fits"] == 1
    assert start["too long"] == 25


def test_a_hold_waits_for_the_longest_of_the_runs_that_share_a_gpu():
    pool = Pool([2, 2], units=2)
    half, whole = Job("half", 0, slots=2), Job("whole", 0)
    # Node 0: one GPU shared until 9 and 3, one free. Node 1: full until 5.
    assert pool.take(half, 9, None) == pool.take(half, 3, None) == (0,)
    assert pool.take(Job("pair", 0, 2), 5, None) == (2, 3)
    hold = pool.hold_for(Job("wide", 0, 2))
    assert (hold.nodes, hold.time) == ({1}, 5)
    assert pool.hold_for(Job("both", 0, 4)).time == 9
    assert pool.take(whole, 4, None) == (1,) and pool.take(whole, 4, None) is None


def test_a_run_gets_neighbours_where_there_are_any():
    pool = Pool([8])
    a, b, c = (pool.take(Job(n, 0, w), 1, None) for n, w in (("a", 1), ("b", 4), ("c", 3)))
    assert (a, b, c) == ((0,), (1, 2, 3, 4), (5, 6, 7))
    pool.give(Job("a", 0), a)
    pool.give(Job("c", 0, 3), c)
    # The shortest stretch that is long enough; two of them where none is.
    assert pool.take(Job("d", 0, 2), 1, None) == (5, 6)
    assert pool.take(Job("e", 0, 2), 1, None) == (0, 7)


def test_nothing_to_do_ends_at_once():
    found = simulate([], [8], begin=3.0)
    assert found.makespan == found.lower_bound == 3 and found.utilisation == 0 and not found.path


@pytest.mark.parametrize(
    ("jobs", "message"),
    [
        ([Job("a", 1, after=("b",))], "a: waits for b, which is not in the plan"),
        ([Job("a", 1, after=("b",)), Job("b", 1, after=("a",))], "waits, through others, for itself"),
        ([Job("a", 1, 24)], "a: 24 GPUs are no number of whole nodes among 2 of 8 GPUs"),
        ([Job("a", 1, 12)], "a: 12 GPUs are no number of whole nodes"),
        ([Job("a", 1), Job("a", 1)], "two jobs share a name"),
    ],
)  # fmt: skip
def test_impossible_jobs_are_named(jobs, message):
    with pytest.raises(PlmscaleError, match=message):
        simulate(jobs, [8, 8])


def test_ten_thousand_runs_on_four_thousand_gpus():
    jobs = random_jobs(random.Random(9), 10_000, (1, 2, 4, 8, 16, 64), (1, 1, 2, 4, 8))
    nodes = [8] * 512
    check(simulate(jobs, nodes), jobs, nodes)
