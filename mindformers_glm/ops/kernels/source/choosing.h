// See choosing.cpp.
#pragma once
#include <cstdint>

extern "C" {

struct GlmChoice {
  const int32_t *seen, *banned;  // ids of the sequence so far, which `penalty` makes less likely; ids never chosen
  int64_t num_seen, num_banned, num_best;
  const uint8_t*
      mask;  // (mask_bytes): bit i of byte j is 1 where id 8 j + i may come; ids beyond it may not. Null: all
  int64_t mask_bytes;
  double uniform;  // in [0, 1): where the draw falls
  double temperature, top_p, penalty;
  int32_t top_k;  // 0: all
  int32_t is_greedy, wants_logprob;
  // What is found: the token, -1 where every one is banned; of the logits as they were given its log-probability, and
  // the `num_best` most probable ids with theirs.
  int32_t token;
  double logprob;
  int32_t* best;
  double* best_logprobs;
};

// logits (rows, vocabulary), a choice for each row. 0: done; 1: memory was not enough.
int glm_choose(const float* logits, int64_t rows, int64_t vocabulary, GlmChoice* choices);
}
