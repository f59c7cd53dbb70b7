// How this compiler laid out the structures that Python fills: one line each, compared when the library is loaded.
#include <cstddef>
#include <string>

#include "choosing.h"
#include "network.h"

namespace {

using glm::Linear;
using glm::Lora;

struct Field {
  const char* name;
  size_t offset, size;
};

std::string line(const char* name, size_t size, std::initializer_list<Field> fields) {
  std::string text = std::string(name) + " " + std::to_string(size);
  for (const Field& field : fields)
    text += std::string(" ") + field.name + ":" + std::to_string(field.offset) + ":" + std::to_string(field.size);
  return text + "\n";
}

#define F(type, name) \
  Field { #name, offsetof(type, name), sizeof(type::name) }

std::string all_lines() {
  return line("Linear", sizeof(Linear),
              {F(Linear, weight), F(Linear, scale), F(Linear, bias), F(Linear, loras), F(Linear, rows),
               F(Linear, columns), F(Linear, num_loras), F(Linear, kind), F(Linear, group), F(Linear, bias_kind),
               F(Linear, layout), F(Linear, input_scale), F(Linear, input_offset), F(Linear, row_scale),
               F(Linear, row_bias)}) +
         line("Lora", sizeof(Lora), {F(Lora, a), F(Lora, b), F(Lora, factor), F(Lora, scale)}) +
         line("GlmNorm", sizeof(GlmNorm), {F(GlmNorm, weight), F(GlmNorm, bias), F(GlmNorm, kind)}) +
         line("GlmLayer", sizeof(GlmLayer),
              {F(GlmLayer, attention_norm), F(GlmLayer, qkv), F(GlmLayer, out), F(GlmLayer, after_attention),
               F(GlmLayer, mlp_norm), F(GlmLayer, gate_up), F(GlmLayer, down), F(GlmLayer, after_mlp)}) +
         line("GlmNetwork", sizeof(GlmNetwork), {F(GlmNetwork, layers),
                                                 F(GlmNetwork, hidden),
                                                 F(GlmNetwork, heads),
                                                 F(GlmNetwork, kv_heads),
                                                 F(GlmNetwork, head_dim),
                                                 F(GlmNetwork, rotary_dim),
                                                 F(GlmNetwork, ffn),
                                                 F(GlmNetwork, vocabulary),
                                                 F(GlmNetwork, length),
                                                 F(GlmNetwork, epsilon),
                                                 F(GlmNetwork, is_grouped),
                                                 F(GlmNetwork, residual_is_norm),
                                                 F(GlmNetwork, has_final_norm),
                                                 F(GlmNetwork, rotary),
                                                 F(GlmNetwork, embedding),
                                                 F(GlmNetwork, layer),
                                                 F(GlmNetwork, final_norm),
                                                 F(GlmNetwork, head),
                                                 F(GlmNetwork, prefix),
                                                 F(GlmNetwork, prefix_length)}) +
         line("GlmStep", sizeof(GlmStep),
              {F(GlmStep, sequences), F(GlmStep, width), F(GlmStep, num_wanted), F(GlmStep, most_blocks),
               F(GlmStep, tokens), F(GlmStep, counts), F(GlmStep, lengths), F(GlmStep, adapters), F(GlmStep, blocks),
               F(GlmStep, wanted), F(GlmStep, logits), F(GlmStep, cache_kind)}) +
         line("GlmChoice", sizeof(GlmChoice),
              {F(GlmChoice, row),        F(GlmChoice, ids),           F(GlmChoice, banned),  F(GlmChoice, biased),
               F(GlmChoice, biases),     F(GlmChoice, num_ids),       F(GlmChoice, num_new), F(GlmChoice, num_banned),
               F(GlmChoice, num_biased), F(GlmChoice, num_best),      F(GlmChoice, mask),    F(GlmChoice, mask_bytes),
               F(GlmChoice, uniform),    F(GlmChoice, temperature),   F(GlmChoice, top_p),   F(GlmChoice, penalty),
               F(GlmChoice, presence),   F(GlmChoice, frequency),     F(GlmChoice, ngram),   F(GlmChoice, top_k),
               F(GlmChoice, is_greedy),  F(GlmChoice, wants_logprob), F(GlmChoice, token),   F(GlmChoice, logprob),
               F(GlmChoice, best),       F(GlmChoice, best_logprobs)});
}

}  // namespace

extern "C" const char* glm_structures() {
  static const std::string text = all_lines();
  return text.c_str();
}
