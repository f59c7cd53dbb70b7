// See choosing.cpp.
#pragma once
#include <cstdint>

extern "C" {

struct GlmChoice {
  int64_t row;            // of the logits
  const int32_t* ids;     // (num_ids): the sequence so far, of which the last `num_new` are no part of the prompt
  const int32_t* banned;  // (num_banned): ids never chosen
  const int32_t* biased;  // (num_biased): ids whose logits get `biases`
  const float* biases;
  int64_t num_ids, num_new, num_banned, num_biased, num_best;
  const uint8_t*
      mask;  // (mask_bytes): bit i of byte j is 1 where id 8 j + i may come; ids beyond it may not. Null: all
  int64_t mask_bytes;
  double uniform;  // in [0, 1): where the draw falls
  double temperature, top_p;
  double penalty;              // makes all ids of the sequence less likely
  double presence, frequency;  // are taken from ids among the new ones: once, and for each time
  int32_t ngram;               // of so many ids none comes twice; 0: any may
  int32_t top_k;               // 0: all
  int32_t is_greedy, wants_logprob;
  // What is found: the token, -1 where every one is banned, -2 where a logit is not a number; of the logits as they
  // were given its log-probability, and the `num_best` most probable ids with theirs.
  int32_t token;
  double logprob;
  int32_t* best;
  double* best_logprobs;
};

// `count` choices, each from its row of the logits (., vocabulary). 0: done; 1: memory was not enough.
int glm_choose(const float* logits, int64_t vocabulary, GlmChoice* choices, int64_t count);
}
