"""Sinkhorn's iterations as one Triton kernel a direction. Left to torch.compile, twenty unrolled iterations a sub-layer take it many minutes."""

import torch
import triton
import triton.language as tl

TOKENS = 32  # of a program


@triton.jit
def _normalise(h, axis: tl.constexpr, eps):
    return h / (tl.sum(h, axis=axis, keep_dims=True) + eps)


@triton.jit
def _undo(d, h, before, axis: tl.constexpr, eps):
    """The gradient at `before` from that at h = _normalise(before)."""
    return (d - tl.sum(d * h, axis=axis, keep_dims=True)) / (tl.sum(before, axis=axis, keep_dims=True) + eps)


@triton.jit
def _softmax(logits):
    e = tl.exp(logits - tl.max(logits, axis=1, keep_dims=True))
    return e / tl.sum(e, axis=1, keep_dims=True)


@triton.jit
def _places(tokens, BLOCK: tl.constexpr, N: tl.constexpr):
    t = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = (t < tokens)[:, None, None] & (tl.arange(0, N) < N)[None, :, None] & (tl.arange(0, N) < N)[None, None, :]
    return t[:, None, None] * (N * N) + tl.arange(0, N)[None, :, None] * N + tl.arange(0, N)[None, None, :], inside


@triton.jit
def _forward(logits, out, tokens, eps, again, BLOCK: tl.constexpr, N: tl.constexpr):
    """The columns' softmax and the rows; then columns and rows `again` times."""
    at, inside = _places(tokens, BLOCK, N)
    h = _normalise(_softmax(tl.load(logits + at, mask=inside, other=0.0)) + eps, 2, eps)
    for _ in range(again):
        h = _normalise(_normalise(h, 1, eps), 2, eps)
    tl.store(out + at, h, mask=inside)


@triton.jit
def _backward(logits, d_out, d_logits, stages, tokens, eps, again, BLOCK: tl.constexpr, N: tl.constexpr):
    """Forward once more, what goes into each pair kept in `stages`, then back."""
    at, inside = _places(tokens, BLOCK, N)
    stride = tokens * N * N
    p = _softmax(tl.load(logits + at, mask=inside, other=0.0))
    h = _normalise(p + eps, 2, eps)
    for i in range(again):
        tl.store(stages + i * stride + at, h, mask=inside)
        h = _normalise(_normalise(h, 1, eps), 2, eps)
    d = tl.load(d_out + at, mask=inside, other=0.0)
    for i in range(again):
        before = tl.load(stages + (again - 1 - i) * stride + at, mask=inside, other=1.0)
        between = _normalise(before, 1, eps)
        d = _undo(d, h, between, 2, eps)
        d = _undo(d, between, before, 1, eps)
        h = before
    d = _undo(d, h, p + eps, 2, eps)
    tl.store(d_logits + at, p * (d - tl.sum(d * p, axis=1, keep_dims=True)), mask=inside)


def _grid(x):
    n = x.shape[-1]
    return x.numel() // (n * n), n


@torch.library.custom_op("peer::sinkhorn", mutates_args=())
def sinkhorn(logits: torch.Tensor, iterations: int, eps: float) -> torch.Tensor:
    """oracle_model.sinkhorn of float logits [..., n, n], n a power of two."""
    logits = logits.contiguous()
    out = torch.empty_like(logits)
    tokens, n = _grid(logits)
    _forward[(triton.cdiv(tokens, TOKENS),)](logits, out, tokens, eps, iterations - 1, BLOCK=TOKENS, N=n)
    return out


@torch.library.custom_op("peer::sinkhorn_grad", mutates_args=())
def sinkhorn_grad(logits: torch.Tensor, d_out: torch.Tensor, iterations: int, eps: float) -> torch.Tensor:
    logits, d_out = logits.contiguous(), d_out.contiguous()
    d_logits = torch.empty_like(logits)
    stages = torch.empty((iterations - 1, logits.numel()), dtype=logits.dtype, device=logits.device)
    tokens, n = _grid(logits)
    _backward[(triton.cdiv(tokens, TOKENS),)](logits, d_out, d_logits, stages, tokens, eps, iterations - 1, BLOCK=TOKENS, N=n)
    return d_logits


@sinkhorn.register_fake
def _(logits, iterations, eps):
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


@sinkhorn_grad.register_fake
def _(logits, d_out, iterations, eps):
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


def _save(ctx, inputs, output):
    ctx.save_for_backward(inputs[0])
    ctx.how = inputs[1:]


def _pull(ctx, d_out):
    return torch.ops.peer.sinkhorn_grad(ctx.saved_tensors[0], d_out, *ctx.how), None, None


sinkhorn.register_autograd(_pull, setup_context=_save)
