// The functions that the torch binding of the label operator calls: see labels_avx2.cpp.
#pragma once
#include <stdint.h>

// Labels between sums of logits. Axes are numbered from the slowest; the last has the channels' rows next to each other.
struct Labels {
  int64_t channels;
  int64_t grid[3], target[3];  // voxels of the sums, and of the labels
  const void* sums;            // grid x channels
  bool half;                   // whether sums are float16, else float
  const float* weights;        // grid: the divisors of the sums
  const int64_t *low[3], *high[3];  // target: the two voxels between which each label lies
  const float* share[3];            // target: the weight of the second
  const int64_t* paint;  // label of each output whose logit is above 0, later over earlier ones; null: the largest wins
  int32_t* codes;        // grid: the decision of each voxel of the sums
  void* labels;          // target
  bool wide;             // whether labels are int16, else uint8
};

static const int64_t MOST_REGIONS = 31;  // a code has a bit for each

int64_t labels_scratch_bytes(const Labels&);  // for one worker
void labels_codes(const Labels&, int64_t begin, int64_t end);                 // voxels of the grid
void labels_lines(const Labels&, int64_t begin, int64_t end, void* scratch);  // lines of the target, after all codes
