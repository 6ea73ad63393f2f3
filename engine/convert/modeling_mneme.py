"""A Mneme model in PyTorch: latent attention, experts, hyper-connections and Engram memory, for inference and fine-tuning.

Written from docs/mathematics.md of Mneme. Whole sequences go in: there is no cache, so generate() computes a text anew at each
token. A left-padded batch is told apart by its attention mask: a row begins at its first token that counts.
"""

import math

import torch
import torch.nn.functional as F
import transformers
from torch import nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from .configuration_mneme import MnemeConfig


def rms_norm(x, weight, eps):
    y = x.float()
    y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps)
    return (y * weight.float()).to(x.dtype)


class Norm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x):
        return rms_norm(x, self.weight, self.eps)


class Mlp(nn.Module):
    def __init__(self, hidden, width):
        super().__init__()
        self.gate_proj = nn.Linear(hidden, width, bias=False)
        self.up_proj = nn.Linear(hidden, width, bias=False)
        self.down_proj = nn.Linear(width, hidden, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Router(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.zeros(config.n_routed_experts, config.hidden_size))
        self.e_score_correction_bias = nn.Parameter(torch.zeros(config.n_routed_experts), requires_grad=False)

    def forward(self, x):
        """x [T, D] -> experts [T, K] and their weights."""
        c = self.config
        logits = F.linear(x.float(), self.weight.float())
        sigmoid = c.scoring_func == "sigmoid"
        scores = torch.sigmoid(logits) if sigmoid else torch.softmax(logits, -1)
        biased = scores + self.e_score_correction_bias.float()
        if c.n_group > 1:
            grouped = biased.unflatten(-1, (c.n_group, -1))
            rank = grouped.topk(2 if sigmoid else 1, -1).values.sum(-1)
            kept = torch.zeros_like(rank).scatter(-1, rank.topk(c.topk_group, -1).indices, 1.0)
            biased = grouped.masked_fill(kept[..., None] == 0, -math.inf).flatten(-2)
        experts = biased.topk(c.num_experts_per_tok, -1).indices
        weights = scores.gather(-1, experts)
        if c.norm_topk_prob:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return experts, weights * c.routed_scaling_factor


class Experts(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.gate = Router(config)
        width = config.moe_intermediate_size
        self.experts = nn.ModuleList(Mlp(config.hidden_size, width) for _ in range(config.n_routed_experts))
        shared = config.n_shared_experts
        self.shared_experts = Mlp(config.hidden_size, shared * width) if shared else None

    def forward(self, x):
        flat = x.flatten(0, -2)
        chosen, weights = self.gate(flat)
        out = torch.zeros_like(flat) if self.shared_experts is None else self.shared_experts(flat)
        for e in chosen.unique().tolist():
            token, place = (chosen == e).nonzero(as_tuple=True)
            y = self.experts[e](flat[token]) * weights[token, place, None].to(flat.dtype)
            out = out.index_add(0, token, y)
        return out.view(x.shape)


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        c, d = config, config.hidden_size
        query = c.num_attention_heads * (c.qk_nope_head_dim + c.qk_rope_head_dim)
        if c.q_lora_rank:
            self.q_a_proj = nn.Linear(d, c.q_lora_rank, bias=False)
            self.q_a_layernorm = Norm(c.q_lora_rank, c.rms_norm_eps)
            self.q_b_proj = nn.Linear(c.q_lora_rank, query, bias=False)
        else:
            self.q_proj = nn.Linear(d, query, bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(d, c.kv_lora_rank + c.qk_rope_head_dim, bias=False)
        self.kv_a_layernorm = Norm(c.kv_lora_rank, c.rms_norm_eps)
        self.kv_b_proj = nn.Linear(
            c.kv_lora_rank, c.num_attention_heads * (c.qk_nope_head_dim + c.v_head_dim), bias=False
        )
        self.o_proj = nn.Linear(c.num_attention_heads * c.v_head_dim, d, bias=False)

    def forward(self, x, turn, visible):
        c = self.config
        batch, length, _ = x.shape
        heads, nope, rope, value = c.num_attention_heads, c.qk_nope_head_dim, c.qk_rope_head_dim, c.v_head_dim
        q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x))) if c.q_lora_rank else self.q_proj(x)
        q = q.view(batch, length, heads, nope + rope)
        latent = self.kv_a_proj_with_mqa(x)
        kv = self.kv_b_proj(self.kv_a_layernorm(latent[..., : c.kv_lora_rank]))
        kv = kv.view(batch, length, heads, nope + value)
        k_rope = rotate(latent[..., None, c.kv_lora_rank :], turn).expand(-1, -1, heads, -1)
        q = torch.cat((q[..., :nope], rotate(q[..., nope:], turn)), -1)
        k = torch.cat((kv[..., :nope], k_rope), -1)
        scores = torch.einsum("bthd,bshd->bhts", q, k).float() * score_scale(c)
        weights = scores.masked_fill(~visible[:, None], -math.inf).softmax(-1).to(x.dtype)
        out = torch.einsum("bhts,bshd->bthd", weights, kv[..., nope:])
        return self.o_proj(out.flatten(-2))


def yarn_of(config):
    """Rotary scaling, or None."""
    yarn = config.rotary_yarn
    return yarn if yarn and yarn.get("type", yarn.get("rope_type")) == "yarn" and yarn["factor"] != 1 else None


def score_scale(config):
    scale = (config.qk_nope_head_dim + config.qk_rope_head_dim) ** -0.5
    yarn = yarn_of(config)
    return scale if yarn is None else scale * (0.1 * yarn["mscale_all_dim"] * math.log(yarn["factor"]) + 1) ** 2


def frequencies(config):
    """Radians a position of every pair, in double."""
    dim, base, yarn = config.qk_rope_head_dim, config.rotary_base, yarn_of(config)
    pair = torch.arange(dim // 2, dtype=torch.float64)
    plain = base ** (-2.0 * pair / dim)
    if yarn is None:
        return plain

    def place(rotations):
        return dim * math.log(yarn["original_max_position_embeddings"] / (2 * math.pi * rotations)) / (2 * math.log(base))

    low = max(math.floor(place(yarn["beta_fast"])), 0)
    high = min(math.ceil(place(yarn["beta_slow"])), dim - 1)
    share = ((pair - low) / max(high - low, 1e-3)).clamp(0, 1)
    return plain / yarn["factor"] * share + plain * (1 - share)


def rotate(x, turn):
    """x [B, T, H, R]: pairs (2i, 2i + 1) turned; turn: cos and sin [B, T, 1, R / 2]."""
    cos, sin = turn
    even, odd = x[..., 0::2].float(), x[..., 1::2].float()
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2).to(x.dtype)


class HyperConnection(nn.Module):
    """The weights of n residual streams around one sub-layer, each made from the streams themselves."""

    def __init__(self, config):
        super().__init__()
        self.hyper, self.eps = config.hyper_connections, config.rms_norm_eps
        n = self.hyper["streams"]
        self.phi = nn.Parameter(torch.zeros(n * config.hidden_size, n * n + 2 * n))
        self.alpha = nn.Parameter(torch.zeros(3))
        self.bias = nn.Parameter(torch.zeros(n * n + 2 * n))

    def forward(self, x):
        """x [B, T, n, D] -> pre, post [B, T, n], res [B, T, n, n] (output stream, input stream)."""
        h, n, eps = self.hyper, x.shape[-2], self.hyper["eps"]
        flat = x.flatten(-2).float()
        root = torch.sqrt(flat.square().mean(-1, keepdim=True) + self.eps)
        mix = flat @ self.phi.float() / root
        alpha, bias = self.alpha.float(), self.bias.float()
        pre = torch.sigmoid(alpha[0] * mix[..., :n] + bias[:n]) + eps
        post = h["post_mult"] * torch.sigmoid(alpha[1] * mix[..., n : 2 * n] + bias[n : 2 * n])
        res = (alpha[2] * mix[..., 2 * n :] + bias[2 * n :]).unflatten(-1, (n, n))
        res = torch.softmax(res, -2) + eps
        res = res / (res.sum(-1, keepdim=True) + eps)
        for _ in range(h["sinkhorn_iterations"] - 1):  # columns, then rows
            res = res / (res.sum(-2, keepdim=True) + eps)
            res = res / (res.sum(-1, keepdim=True) + eps)
        return pre, post, res


class Readout(nn.Module):
    """The streams become one."""

    def __init__(self, config):
        super().__init__()
        n = config.hyper_connections["streams"]
        self.hyper, self.eps = config.hyper_connections, config.rms_norm_eps
        if self.hyper["readout"] == "learned":
            self.fn = nn.Parameter(torch.zeros(n, n * config.hidden_size))
            self.scale = nn.Parameter(torch.zeros(1))
            self.base = nn.Parameter(torch.zeros(n))

    def forward(self, x):
        if self.hyper["readout"] != "learned":
            return (x.float().mean(-2) if self.hyper["readout"] == "mean" else x.float().sum(-2)).to(x.dtype)
        flat = x.flatten(-2).float()
        root = torch.sqrt(flat.square().mean(-1, keepdim=True) + self.eps)
        logit = flat @ self.fn.float().T / root
        weight = torch.sigmoid(self.scale.float() * logit + self.base.float()) + self.hyper["eps"]
        return (weight[..., None] * x.float()).sum(-2).to(x.dtype)


class Engram(nn.Module):
    """Hashed n-grams to rows of a table, a gate by context, a short convolution; added to the streams."""

    def __init__(self, config, layer):
        super().__init__()
        e = self.engram = config.engram
        self.layer = layer
        d, streams = config.hidden_size, config.hyper_connections["streams"]
        self.gated = e["gate_branches"] != "none"
        self.branches = 1 if e["gate_branches"] == "single" else streams
        width = e["width"] // len(layer["primes"])
        self.table = nn.ParameterList(nn.Parameter(torch.zeros(rows, width)) for rows in layer["table_rows"])
        self.value = nn.Linear(e["width"], d, bias=False)
        if self.gated:
            self.key = nn.ModuleList(nn.Linear(e["width"], d, bias=False) for _ in range(self.branches))
            self.query_norm = nn.Parameter(torch.ones(self.branches, d))
            self.key_norm = nn.Parameter(torch.ones(self.branches, d))
        if e["conv"]:
            self.conv_norm = nn.Parameter(torch.ones(self.branches, d))
            self.conv = nn.Parameter(torch.zeros(self.branches * d, e["conv_kernel"]))

    def rows(self, ids, begin):
        """Rows [B, T, orders * heads] of canonical ids [B, T]; look-back before begin [B, 1] reads the pad."""
        e, length = self.engram, ids.shape[1]
        place = torch.arange(length, device=ids.device)
        factors, primes = self.layer["multipliers"], self.layer["primes"]
        mix, mixes = torch.zeros_like(ids), []
        for back in range(max(e["orders"])):
            past = F.pad(ids, (back, 0))[:, :length]
            past = torch.where(place - back >= begin, past, e["pad"])
            mix = mix ^ past * factors[back]
            if back + 1 in e["orders"]:
                mixes.append(mix)
        mixes = torch.stack(mixes, -1).repeat_interleave(e["heads"], -1)
        first = [sum(primes[:i]) for i in range(len(primes))]
        return mixes % mixes.new_tensor(primes) + mixes.new_tensor(first)

    def lookup(self, rows):
        if len(self.table) == 1:
            return F.embedding(rows, self.table[0])
        out = self.table[0].new_zeros(*rows.shape, self.table[0].shape[1])
        first = 0
        for part in self.table:
            inside = (rows >= first) & (rows < first + part.shape[0])
            out[inside] = part[rows[inside] - first]
            first += part.shape[0]
        return out

    def forward(self, x, ids, begin):
        """x [B, T, n, D]; returns x with the memory added."""
        e, width = self.engram, x.shape[-1]
        memory = self.lookup(self.rows(ids, begin)).flatten(-2).to(x.dtype)
        u = self.value(memory).float()[..., None, :]
        if self.gated:
            query = x.float().mean(-2, keepdim=True) if self.branches < x.shape[-2] else x.float()
            keys = torch.stack([key(memory) for key in self.key], -2).float()
            query = rms_norm(query, self.query_norm, e["gate_norm_eps"])
            keys = rms_norm(keys, self.key_norm, e["gate_norm_eps"])
            s = (query * keys).sum(-1) / math.sqrt(width)
            if e["gate_transform"] == "signed_sqrt":
                s = torch.sign(s) * torch.sqrt(s.abs().clamp_min(e["gate_clamp"]))
            u = torch.sigmoid(s)[..., None] * u
        u = u.expand(-1, -1, self.branches, -1).to(x.dtype).float()
        y = u
        if e["conv"]:
            y = u + F.silu(self.convolve(u, begin))
        return (x.float() + y).to(x.dtype)

    def convolve(self, u, begin):
        e, length = self.engram, u.shape[1]
        normed = rms_norm(u, self.conv_norm, e["conv_norm_eps"])
        taps = self.conv.float().view(u.shape[-2], u.shape[-1], e["conv_kernel"])
        place = torch.arange(length, device=u.device)
        out = torch.zeros_like(u)
        for tap in range(e["conv_kernel"]):
            back = e["conv_dilation"] * (e["conv_kernel"] - 1 - tap)
            shifted = F.pad(normed, (0, 0, 0, 0, back, 0))[:, :length]
            out = out + taps[..., tap] * shifted * (place - back >= begin)[..., None, None]
        return out


class Block(nn.Module):
    def __init__(self, config, index):
        super().__init__()
        layers = config.engram["layers"] if config.engram else []
        mine = [layer for layer in layers if layer["layer"] == index]
        self.engram = Engram(config, mine[0]) if mine else None
        self.many = config.hyper_connections["streams"] > 1
        if self.many:
            self.attention_hyper = HyperConnection(config)
            self.mlp_hyper = HyperConnection(config)
        self.input_layernorm = Norm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = Norm(config.hidden_size, config.rms_norm_eps)
        dense = index < config.first_k_dense_replace
        self.mlp = Mlp(config.hidden_size, config.intermediate_size) if dense else Experts(config)

    def connect(self, x, name, inner):
        if not self.many:
            return x + inner(x[..., 0, :])[..., None, :]
        pre, post, res = getattr(self, name)(x)
        y = inner((pre[..., None] * x.float()).sum(-2).to(x.dtype))
        return (res @ x.float() + post[..., None] * y[..., None, :].float()).to(x.dtype)

    def forward(self, x, ids, begin, turn, visible):
        if self.engram is not None:
            x = self.engram(x, ids, begin)
        x = self.connect(x, "attention_hyper", lambda h: self.self_attn(self.input_layernorm(h), turn, visible))
        return self.connect(x, "mlp_hyper", lambda h: self.mlp(self.post_attention_layernorm(h)))


class MnemePreTrainedModel(PreTrainedModel):
    config_class = MnemeConfig
    base_model_prefix = "model"
    _no_split_modules = ["Block"]
    _keep_in_fp32_modules_strict = [
        "e_score_correction_bias", "attention_hyper", "mlp_hyper", "readout", "query_norm", "key_norm", "conv_norm", "conv",
    ]

    def _init_weights(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            module.weight.data.normal_(0.0, self.config.initializer_range)


class MnemeModel(MnemePreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, i) for i in range(config.num_hidden_layers))
        self.readout = Readout(config) if config.hyper_connections["streams"] > 1 else None
        self.norm = Norm(config.hidden_size, config.rms_norm_eps)
        self.post_init()

    def forward(self, input_ids, attention_mask=None):
        length, device = input_ids.shape[1], input_ids.device
        counts = torch.ones_like(input_ids) if attention_mask is None else attention_mask.long()
        begin = (counts.cumsum(-1) == 0).sum(-1, keepdim=True)
        place = torch.arange(length, device=device)
        visible = (place[None, :] <= place[:, None]) & (counts[:, None, :] > 0)
        visible = visible | torch.eye(length, dtype=torch.bool, device=device)  # padding sees itself
        angle = (place - begin).clamp_min(0)[..., None].double() * frequencies(self.config).to(device)
        turn = angle.cos().float()[..., None, :], angle.sin().float()[..., None, :]
        ids = input_ids
        if self.config.engram:
            ids = torch.tensor(self.config.engram["canonical"], device=device)[input_ids]
        x = self.embed_tokens(input_ids)[..., None, :]
        x = x.expand(-1, -1, self.config.hyper_connections["streams"], -1)
        for layer in self.layers:
            x = layer(x, ids, begin, turn, visible)
        x = x[..., 0, :] if self.readout is None else self.readout(x)
        return self.norm(x)


class MnemeForCausalLM(MnemePreTrainedModel, GenerationMixin):
    # A list of names before transformers 5, from then on a name and what it is tied to.
    _tied_weights_keys = (
        ["lm_head.weight"]
        if int(transformers.__version__.split(".")[0]) < 5
        else {"lm_head.weight": "model.embed_tokens.weight"}
    )

    def __init__(self, config):
        super().__init__(config)
        self.model = MnemeModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.model.embed_tokens

    def set_input_embeddings(self, value):
        self.model.embed_tokens = value

    def get_output_embeddings(self):
        return self.lm_head

    def set_output_embeddings(self, value):
        self.lm_head = value

    def prepare_inputs_for_generation(self, input_ids, attention_mask=None, **_):
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    def forward(self, input_ids, attention_mask=None, labels=None, logits_to_keep=0, **_):
        hidden = self.model(input_ids, attention_mask)
        if isinstance(logits_to_keep, int):
            hidden = hidden[:, -logits_to_keep:] if logits_to_keep else hidden
        else:
            hidden = hidden[:, logits_to_keep]
        logits = self.lm_head(hidden)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100)
        return CausalLMOutput(loss=loss, logits=logits)
