# SPDX-License-Identifier: Apache-2.0
"""The interpreter of PTX: memory, lanes that work together, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from tests.emulation.ptx import PtxError, run
from tests.emulation.snippets import module

# Memory


def test_vectors_and_narrow_numbers():
    x = torch.tensor([1, 2, 3, 4, 250, 6, 7, 8], dtype=torch.uint8)
    out = torch.zeros(8, dtype=torch.int32)
    body = """ld.global.L1::evict_last.v4.u8 {%h0, %h1, %h2, %h3}, [%p0+4]; cvt.s32.s8 %r0, %h0; cvt.u32.u16 %r1, %h1;
        ld.global.nc.s8 %r2, [%p0+4]; ld.global.cg.b16 %h4, [%p0]; cvt.u32.u16 %r3, %h4;
        st.global.wt.v4.b32 [%p1+16], {%r0, %r1, %r2, %r3}; st.global.b8 [%p1], %r2;"""
    run(module(body, 2), (1,), 1, [x, out])
    assert out.tolist() == [250, 0, 0, 0, -6, 6, -6, 0x201]


def test_local_memory_and_generic_addresses():
    body = """.local .align 8 .b8 depot[16]; mov.u64 %d1, depot; st.local.u32 [%d1+4], %lane; cvta.local.u64 %d2, %d1;
        ld.u32 %r1, [%d2+4]; mov.u32 %r2, tile; mad.lo.s32 %r2, %lane, 4, %r2; st.shared.u32 [%r2], %r1;
        cvt.u64.u32 %d3, %r2; cvta.shared.u64 %d4, %d3; ld.u32 %r3, [%d4]; mad.wide.u32 %at, %lane, 4, %p0;
        st.u32 [%at], %r3;"""
    out = torch.zeros(64, dtype=torch.int32)
    run(module(body, shared=256), (1,), 64, [out])
    assert out.tolist() == list(range(64))


def test_shared_memory_is_poisoned():
    out = torch.zeros(1)
    run(module("ld.shared.f32 %f1, [tile]; st.global.f32 [%p0], %f1;", shared=16), (1,), 1, [out])
    assert out.isnan()


@pytest.mark.parametrize(
    ("name", "begin", "end"),
    [
        ("add.u32 %r1, [%p0], 2", 5, 5 + 2 * 64),
        ("max.s32 %r1, [%p0], %lane", 5, 63),
        ("min.u32 %r1, [%p0], %lane", 5, 0),
        ("or.b32 %r1, [%p0], %lane", 0, 63),
        ("and.b32 %r1, [%p0], %lane", -1, 0),
        ("xor.b32 %r1, [%p0], %lane", 0, 0),
        ("exch.b32 %r1, [%p0], %lane", 5, 63),
        ("inc.u32 %r1, [%p0], 9", 0, 4),
        ("cas.b32 %r1, [%p0], 5, 9", 5, 9),
    ],
)
def test_atomics_of_64_lanes(name, begin, end):
    operation, rest = name.split(" ", 1)
    place, old = torch.tensor([begin], dtype=torch.int32), torch.zeros(64, dtype=torch.int32)
    body = f"atom.global.gpu.acq_rel.{operation} {rest}; mad.wide.u32 %at, %lane, 4, %p1; st.global.b32 [%at], %r1;"
    run(module(body, 2), (1,), 64, [place, old])
    assert place.item() == end
    if operation == "add.u32":
        assert old.tolist() == list(range(5, 5 + 2 * 64, 2))
    if operation == "inc.u32":
        assert old.tolist() == [i % 10 for i in range(64)]
    assert old[0] == begin


def test_atomics_in_a_drawn_order():
    place, old = torch.zeros(1, dtype=torch.int64), torch.zeros(64, dtype=torch.int64)
    body = "atom.global.add.u64 %d1, [%p0], 1; mad.wide.u32 %at, %lane, 8, %p1; st.global.b64 [%at], %d1;"
    run(module(body, 2), (1,), 64, [place, old], seed=3)
    assert sorted(old.tolist()) == list(range(64))
    assert old.tolist() != list(range(64))


def test_matrices_of_halves():
    x = torch.arange(64, dtype=torch.int16)
    out = torch.zeros(64, dtype=torch.int16)
    body = """mov.u32 %r2, tile; mad.wide.u32 %at, %lane, 4, %p0; ld.global.b32 %r1, [%at];
        mad.lo.s32 %r3, %lane, 4, %r2; st.shared.b32 [%r3], %r1; bar.sync 0;
        and.b32 %r4, %lane, 7; mad.lo.s32 %r4, %r4, 16, %r2;
        ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%r5}, [%r4]; bar.sync 0;
        stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r4], {%r5}; bar.sync 0; ld.shared.b32 %r6, [%r3];
        mad.wide.u32 %at, %lane, 4, %p1; st.global.b32 [%at], %r6;"""
    run(module(body, 2, shared=128), (1,), 32, [x, out])
    assert torch.equal(out.view(8, 8), x.view(8, 8).T)


# Lanes together


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("shfl.sync.up.b32 %r1|%q1, %lane, 3, 0, -1;", [max(i - 3, i if i < 3 else 0) for i in range(32)]),
        ("shfl.sync.down.b32 %r1|%q1, %lane, 2, 31, -1;", [i + 2 if i < 30 else i for i in range(32)]),
        ("shfl.sync.bfly.b32 %r1, %lane, 5, 31, -1;", [i ^ 5 for i in range(32)]),
        ("shfl.sync.idx.b32 %r1, %lane, 7, 31, -1;", [7] * 32),
        ("shfl.sync.down.b32 %r1, %lane, 1, 0x1807, -1;", [i + 1 if i % 8 < 7 else i for i in range(32)]),
        ("setp.lt.u32 %q1, %lane, 3; vote.sync.ballot.b32 %r1, %q1, -1;", [7] * 32),
        ("setp.lt.u32 %q1, %lane, 3; vote.sync.any.pred %q2, %q1, -1; selp.u32 %r1, 1, 0, %q2;", [1] * 32),
        ("setp.lt.u32 %q1, %lane, 3; vote.sync.all.pred %q2, %q1, -1; selp.u32 %r1, 1, 0, %q2;", [0] * 32),
        ("and.b32 %r2, %lane, 1; match.any.sync.b32 %r1, %r2, -1;", [0x55555555 << i % 2 for i in range(32)]),
        ("match.all.sync.b32 %r1|%q1, 4, -1;", [0xFFFFFFFF] * 32),
        ("redux.sync.add.s32 %r1, %lane, -1;", [496] * 32),
        ("redux.sync.max.u32 %r1, %lane, -1;", [31] * 32),
        ("mov.u32 %r1, %lanemask_lt;", [2**i - 1 for i in range(32)]),
        ("activemask.b32 %r1;", [0xFFFFFFFF] * 32),
        ("elect.sync %r1|%q1, -1;", [0] * 32),
    ],
)
def test_warp(code, expected):
    out = torch.zeros(32, dtype=torch.int32)
    run(module(f"{code} mad.wide.u32 %at, %lane, 4, %p0; st.global.u32 [%at], %r1;"), (1,), 32, [out])
    assert [value % 2**32 for value in out.tolist()] == expected


def test_lanes_meet_at_a_shuffle_that_they_reach_by_different_ways():
    body = """setp.lt.u32 %q1, %lane, 9; mov.u32 %r2, 100; @%q1 bra $X; mov.u32 %r2, %lane; $X: add.u32 %r2, %r2, 1;
        shfl.sync.bfly.b32 %r1, %r2, 16, 31, -1; mad.wide.u32 %at, %lane, 4, %p0; st.global.u32 [%at], %r1;"""
    out = torch.zeros(32, dtype=torch.int32)
    run(module(body), (1,), 32, [out])
    assert out.tolist() == [(i ^ 16) + 1 if (i ^ 16) >= 9 else 101 for i in range(32)]


# What it refuses


def refusal(body: str, *tensors: torch.Tensor, threads: int = 64, shared: int = 0, parameters: int = 1) -> str:
    with pytest.raises(PtxError) as caught:
        run(module(body, parameters, shared), (1,), threads, [*tensors])
    return str(caught.value)


def test_store_out_of_bounds():
    body = "mad.wide.u32 %at, %lane, 4, %p0; st.global.u32 [%at], %lane;"
    message = refusal(body, torch.zeros(50, dtype=torch.int32))
    assert "thread 50" in message
    assert "`st.global.u32 [%at], %lane`" in message
    assert "0 bytes behind the end of one of 200 bytes" in message


def test_load_of_a_slice_stays_inside_it():
    whole = torch.zeros(100)
    assert "thread 10" in refusal("mad.wide.u32 %at, %lane, 4, %p0; ld.global.f32 %f1, [%at];", whole[20:30])


def test_misaligned_vector():
    body = "mad.wide.u32 %at, %lane, 4, %p0; ld.global.v4.f32 {%f1, %f2, %f3, %f4}, [%at];"
    assert "no multiple of 16" in refusal(body, torch.zeros(256))


def test_shared_memory_out_of_bounds():
    body = "mov.u32 %r1, tile; mad.lo.s32 %r1, %lane, 4, %r1; st.shared.u32 [%r1], %lane;"
    assert "of shared memory" in refusal(body, torch.zeros(1), shared=128)


def test_shuffle_from_a_lane_that_does_not_take_part():
    body = """setp.lt.u32 %q1, %lane, 16; @!%q1 bra $X; shfl.sync.idx.b32 %r1, %lane, 20, 31, 0xFFFF; $X: bar.sync 0;"""
    assert "reads a lane that does not execute it" in refusal(body, torch.zeros(1))


def test_shuffle_whose_mask_names_an_ended_lane():
    body = "setp.lt.u32 %q1, %lane, 16; @!%q1 ret; shfl.sync.idx.b32 %r1, %lane, 0, 31, -1;"
    assert "names a lane that has ended" in refusal(body, torch.zeros(1))


def test_divergent_barrier():
    body = "setp.lt.u32 %q1, %lane, 16; @%q1 bra $X; bar.sync 0; bra.uni $Y; $X: bar.sync 0; $Y:"
    assert "wait for each other for ever" in refusal(body, torch.zeros(1))


def test_barrier_that_ended_warps_do_not_hold_up():
    out = torch.zeros(1, dtype=torch.int32)
    body = "setp.ge.u32 %q1, %lane, 32; @%q1 ret; bar.sync 0; setp.eq.u32 %q2, %lane, 0; @%q2 st.global.u32 [%p0], 7;"
    run(module(body), (1,), 64, [out])
    assert out.item() == 7


def test_unknown_instruction():
    with pytest.raises(NotImplementedError, match="wgmma"):
        module("wgmma.fence.sync.aligned;")


def test_unknown_modifier():
    with pytest.raises(NotImplementedError, match=r"add\.cc\.u32"):
        module("add.cc.u32 %r1, %r2, %r3;")


# Races

WRITE = "mov.u32 %r1, tile; mad.lo.s32 %r2, %lane, 4, %r1; st.shared.u32 [%r2], %lane;"
READ = "xor.b32 %r3, %lane, {}; mad.lo.s32 %r3, %r3, 4, %r1; ld.shared.u32 %r4, [%r3];"


def test_missing_barrier():
    assert "races for shared memory written by thread 32" in refusal(
        WRITE + READ.format(32), torch.zeros(1), shared=256
    )
    run(module(WRITE + "bar.sync 0;" + READ.format(32), shared=256), (1,), 64, [torch.zeros(1)])


def test_missing_barrier_before_the_next_write():
    body = WRITE + "bar.sync 0;" + READ.format(32) + "{}st.shared.u32 [%r2], %r4;"
    assert "races for shared memory read by thread" in refusal(body.format(""), torch.zeros(1), shared=256)
    run(module(body.format("bar.sync 0;"), shared=256), (1,), 64, [torch.zeros(1)])


def test_a_warp_orders_its_own_lanes_only():
    body = WRITE + "bar.warp.sync -1;"
    run(module(body + READ.format(16), shared=256), (1,), 64, [torch.zeros(1)])
    assert "races" in refusal(body + READ.format(32), torch.zeros(1), shared=256)


def test_a_vote_orders_what_was_read_before_it():
    body = "ld.global.u32 %r1, [%p0]; {} setp.eq.u32 %q1, %lane, 0; @%q1 st.global.u32 [%p0], 1;"
    place = torch.zeros(1, dtype=torch.int32)
    run(module(body.format("vote.sync.ballot.b32 %r2, %q2, -1;")), (1,), 32, [place])
    place.zero_()
    assert "races for global memory read by" in refusal(body.format(""), place, threads=32)
    written = "st.global.u32 [%p0], 0; vote.sync.ballot.b32 %r2, %q2, -1; setp.eq.u32 %q1, %lane, 0;"
    assert "races" in refusal(f"{written} @%q1 st.global.u32 [%p0], 1;", place, threads=32)


def test_a_lane_reads_what_its_warp_has_read_and_writes_it():
    body = """ld.global.u32 %r1, [%p0]; bar.warp.sync -1; setp.eq.u32 %q1, %lane, 3; @%q1 ld.global.u32 %r1, [%p0];
        @%q1 st.global.u32 [%p0], 1;"""
    run(module(body), (1,), 32, [torch.zeros(1, dtype=torch.int32)])


def test_two_threads_write_one_place():
    assert "different values" in refusal("st.global.u32 [%p0], %lane;", torch.zeros(1, dtype=torch.int32))
    body = "st.global.u32 [%p0], 5; setp.eq.u32 %q1, %lane, 3; @%q1 st.global.u32 [%p0], {};"
    assert "races" in refusal(body.format(6), torch.zeros(1, dtype=torch.int32))
    run(module(body.format(5)), (1,), 64, [torch.zeros(1, dtype=torch.int32)])  # the same value harms nobody


COUNTED = """mov.u32 %r1, %ctaid.x; mov.u32 %r2, %nctaid.x; mad.wide.u32 %at, %r1, 4, %p0; setp.eq.u32 %q1, %lane, 0;
    {store} {fence} @%q1 atom.global.{order}add.u32 %r3, [%p1], 1; sub.u32 %r4, %r2, 1;
    setp.eq.u32 %q2, %r3, %r4; and.pred %q2, %q2, %q1; @!%q2 ret; ld.global.u32 %r5, [%p0]; ld.global.u32 %r6, [%p0+4];
    add.u32 %r5, %r5, %r6; st.global.u32 [%p1+4], %r5;"""
STORE = "@%q1 st.global.u32 [%at], 7;"


@pytest.mark.parametrize("seed", [None, 0, 1])
@pytest.mark.parametrize(("fence", "order"), [("", "gpu.acq_rel."), ("membar.gl;", "")])
def test_the_last_block_reads_what_others_wrote(fence, order, seed):
    parts, counter = torch.zeros(200, dtype=torch.int32), torch.zeros(2, dtype=torch.int32)
    kernel = module(COUNTED.format(store=STORE, fence=fence, order=order), 2)
    run(kernel, (200,), 64, [parts, counter], seed=seed)
    assert counter.tolist() == [200, 14]


def test_missing_fence_between_blocks():
    parts, counter = torch.zeros(3, dtype=torch.int32), torch.zeros(2, dtype=torch.int32)
    body = COUNTED.format(store=STORE, fence="", order="")
    with pytest.raises(PtxError, match="races for global memory written by thread 0 of block"):
        run(module(body, 2), (3,), 64, [parts, counter])


def test_blocks_that_write_one_place():
    body = "mov.u32 %r1, %ctaid.x; setp.eq.u32 %q1, %lane, 0; @%q1 st.global.u32 [%p0], %r1;"
    for blocks in (2, 1000):  # at once, and one after the other
        with pytest.raises(PtxError, match=r"different values|races for global memory"):
            run(module(body), (blocks,), 1, [torch.zeros(1, dtype=torch.int32)])
