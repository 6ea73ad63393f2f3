"""Configuration of a Mneme model with Engram memory or hyper-connections: DeepSeek-V3's keys and two sections of its own."""

from transformers import PretrainedConfig


class MnemeConfig(PretrainedConfig):
    """`hyper_connections`: streams, sinkhorn_iterations, post_mult, eps, readout; one stream is the plain residual.

    `engram` (None: no memory): orders, heads, width, pad, gate_*, conv_*, canonical (id -> id that is hashed), and a
    list of layers with their multipliers, primes and the rows of each part of the table.
    """

    model_type = "mneme"
    keys_to_ignore_at_inference = []

    def __init__(
        self,
        vocab_size=258,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        q_lora_rank=None,
        kv_lora_rank=64,
        qk_nope_head_dim=32,
        qk_rope_head_dim=16,
        v_head_dim=32,
        n_routed_experts=16,
        n_shared_experts=1,
        num_experts_per_tok=2,
        moe_intermediate_size=128,
        first_k_dense_replace=1,
        norm_topk_prob=True,
        routed_scaling_factor=1.0,
        n_group=1,
        topk_group=1,
        scoring_func="sigmoid",
        rope_theta=10000.0,
        rope_scaling=None,
        max_position_embeddings=4096,
        rms_norm_eps=1e-6,
        initializer_range=0.006,
        hyper_connections=None,
        engram=None,
        tie_word_embeddings=False,
        use_cache=False,
        **kwargs,
    ):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.q_lora_rank = q_lora_rank
        self.kv_lora_rank = kv_lora_rank
        self.qk_nope_head_dim = qk_nope_head_dim
        self.qk_rope_head_dim = qk_rope_head_dim
        self.v_head_dim = v_head_dim
        self.n_routed_experts = n_routed_experts
        self.n_shared_experts = n_shared_experts
        self.num_experts_per_tok = num_experts_per_tok
        self.moe_intermediate_size = moe_intermediate_size
        self.first_k_dense_replace = first_k_dense_replace
        self.norm_topk_prob = norm_topk_prob
        self.routed_scaling_factor = routed_scaling_factor
        self.n_group = n_group
        self.topk_group = topk_group
        self.scoring_func = scoring_func
        self.max_position_embeddings = max_position_embeddings
        self.rms_norm_eps = rms_norm_eps
        self.initializer_range = initializer_range
        self.hyper_connections = hyper_connections or {"streams": 1}
        self.engram = engram
        # Under names that no version of transformers rewrites.
        self.rotary_base = kwargs.pop("rotary_base", rope_theta)
        self.rotary_yarn = kwargs.pop("rotary_yarn", rope_scaling)
        for known in ("rope_parameters", "rope_interleave"):
            kwargs.pop(known, None)
        super().__init__(tie_word_embeddings=tie_word_embeddings, use_cache=use_cache, **kwargs)
