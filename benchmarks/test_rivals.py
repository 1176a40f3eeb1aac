"""How many rows a second does an epoch deliver, beside every rival and the limit?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import imbalance
from benchmarks.peers import Peer
from benchmarks.peers.balanced_batch_generator import balanced_batch_generator
from benchmarks.peers.data_loader import data_loader, fetching_data_loader
from benchmarks.peers.ffcv import ffcv
from benchmarks.peers.grain import grain, grain_mix
from benchmarks.peers.hf_datasets import hf_datasets, interleave
from benchmarks.peers.index_select import index_select
from benchmarks.peers.learn2mix_reference import learn2mix_reference
from benchmarks.peers.limit import limit
from benchmarks.peers.m_per_class_sampler import m_per_class_sampler
from benchmarks.peers.permuted import permuted
from benchmarks.peers.spdl import spdl
from benchmarks.peers.stateful_data_loader import stateful_data_loader
from benchmarks.peers.streaming import stratified_streaming, streaming
from benchmarks.peers.take import take
from benchmarks.peers.tensordict import tensordict
from benchmarks.peers.tf_data import sample_from_datasets, tf_data
from benchmarks.peers.torchdata_nodes import multi_node_weighted_sampler, torchdata_nodes
from benchmarks.peers.torchsampler import imbalanced_dataset_sampler
from benchmarks.peers.webdataset import webdataset
from benchmarks.peers.weighted_random_sampler import weighted_random_sampler
from benchmarks.race import OURS, Times, race
from benchmarks.report import Report
from benchmarks.workloads import IMAGES_784, IMAGES_3072, NUM_THREADS, SEED, TABLE_64, Fields, Workload, check_epoch
from l2m_fast import Balanced, Loader

Factory = Callable[[Fields, int], Peer]

FAST: tuple[Factory, ...] = (
    fetching_data_loader,
    stateful_data_loader,
    torchdata_nodes,
    permuted,
    index_select,
    take,
    tensordict,
    spdl,
    ffcv,
    tf_data,
    hf_datasets,
)
SLOW: tuple[Factory, ...] = (  # whose epochs of half a million rows take seconds
    partial(data_loader, num_workers=0),
    partial(data_loader, num_workers=2),
    grain,
    streaming,
    partial(webdataset, num_workers=0),
    partial(webdataset, num_workers=2),
)
MOST_ROWS = 50_000  # of an epoch of a slow rival

EXACT: tuple[Factory, ...] = (m_per_class_sampler, stratified_streaming, grain_mix, learn2mix_reference)
IN_EXPECTATION: tuple[Factory, ...] = (
    weighted_random_sampler,
    imbalanced_dataset_sampler,
    multi_node_weighted_sampler,
    sample_from_datasets,
    interleave,
    balanced_batch_generator,
)

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(3600)]  # rivals' own warnings; many rivals


@pytest.fixture
def closing() -> Iterator[ExitStack]:
    """Closes whatever a test has made."""
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("workload", [IMAGES_3072, IMAGES_784, TABLE_64], ids=str)
def test_plain_epoch(
    benchmark: BenchmarkFixture, report: Report, rounds: int, closing: ExitStack, workload: Workload
) -> None:
    """Races epochs of all rows in random order; slow rivals have a part of the rows."""
    fields = workload.fields()
    part = Fields(fields.x[:MOST_ROWS], fields.y[:MOST_ROWS])
    copying = limit(fields, workload.batch_size)
    loader = closing.enter_context(
        Loader((fields.x, fields.y), batch_size=workload.batch_size, num_threads=NUM_THREADS, seed=SEED)
    )
    rows = {}
    peers = []
    for factories, data in ((FAST, fields), (SLOW, part)):
        for peer in _made(factories, data, workload.batch_size, report, closing):
            check_epoch(peer.batches, data)
            rows[peer.name] = len(data.y)
            peers.append(peer)
    for peer in (copying, ours := Peer.iterated(OURS, loader)):
        check_epoch(peer.batches, fields)
        rows[peer.name] = workload.num_rows
    times = race(benchmark, ours.run, {peer.name: peer.run for peer in (*peers, copying)}, rounds)
    _report(report, str(workload), times, rows, copying.name)


@pytest.mark.parametrize("ratio", imbalance.RATIOS)
def test_balanced_epoch(
    benchmark: BenchmarkFixture, report: Report, rounds: int, closing: ExitStack, ratio: int
) -> None:
    """Races epochs that draw long-tailed classes equally often, whether in every batch or on average.

    The limit copies rows that our loader has drawn. A rival's epoch is as long as it makes it; figures are rows a second.
    """
    fields = imbalance.long_tailed_fields(ratio)
    batch_size = imbalance.WORKLOAD.batch_size
    loader = closing.enter_context(
        Loader(
            (fields.x, fields.y),
            batch_size=batch_size,
            classes=fields.y,
            mixing=Balanced(),
            num_threads=NUM_THREADS,
            seed=SEED,
        )
    )
    drawn = np.stack([np.concatenate([loader.batch_rows for _ in loader]) for _ in range(4)])
    copying = limit(fields, batch_size, orders=drawn.astype(np.uint32))
    rows = {}
    peers = []
    for factories, exact in ((EXACT, True), (IN_EXPECTATION, False)):
        for peer in _made(factories, fields, batch_size, report, closing):
            rows[peer.name] = imbalance.check_balance(peer.batches, fields, exact)
            peers.append(peer)
    for peer in (copying, ours := Peer.iterated(OURS, loader)):
        rows[peer.name] = imbalance.check_balance(peer.batches, fields, exact=True)
    times = race(benchmark, ours.run, {peer.name: peer.run for peer in (*peers, copying)}, rounds)
    _report(report, imbalance.case(ratio), times, rows, copying.name)


def _made(
    factories: Sequence[Factory], fields: Fields, batch_size: int, report: Report, closing: ExitStack
) -> Iterator[Peer]:
    """Makes the rivals that are installed, and reports the others."""
    for factory in factories:
        try:
            peer = factory(fields, batch_size)
        except ImportError as error:
            report.miss(str(error.name), str(error))
            continue
        closing.callback(peer.close)
        yield peer


def _report(report: Report, case: str, times: Times, rows: dict[str, int], limit: str) -> None:
    """Adds the rows a second of all, how much faster ours are, and what share of the limit each reaches."""
    for name, num_rows in rows.items():
        report.add(case, name, times.rate(name, num_rows), "rows/s")
    for name, num_rows in rows.items():
        if name not in (OURS, limit):
            ratio = times.ratio(slow=name, fast=OURS).scaled(rows[OURS] / num_rows)
            report.add(case, f"{OURS} vs {name}", ratio, "x")
    for name, num_rows in rows.items():
        if name != limit:
            share = times.ratio(slow=limit, fast=name).scaled(num_rows / rows[limit])
            report.add(case, f"{name} vs {limit}", share, "x")
