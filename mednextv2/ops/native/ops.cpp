// The operators mednextv2_native::*.
#include "depthwise_op.h"
#include "labels_op.h"
#include "mlp_op.h"

TORCH_LIBRARY(mednextv2_native, m) {
  m.def("instructions(bool bfloat16=True) -> str", &instructions);
  m.def("fast_bfloat16() -> bool", &fast_bfloat16);
  m.def(
      "mlp(Tensor y, Tensor mean, Tensor variance, Tensor norm_weight, Tensor norm_bias, Tensor w1, Tensor b1, "
      "Tensor? gamma, Tensor? beta, Tensor w2, Tensor b2, Tensor? residual, float norm_eps, float grn_eps, bool grn_sum) "
      "-> (Tensor, Tensor)");
  m.def(
      "mlp_backward(Tensor grad, Tensor y, Tensor mean, Tensor variance, Tensor norm_weight, Tensor norm_bias, Tensor w1, "
      "Tensor b1, Tensor? gamma, Tensor? beta, Tensor w2, Tensor b2, Tensor g, float norm_eps, float grn_eps, "
      "bool grn_sum) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def("depthwise(Tensor x, Tensor weight, Tensor? bias, int stride, bool transposed) -> (Tensor, Tensor, Tensor)");
  m.def(
      "depthwise_backward(Tensor grad, Tensor x, Tensor weight, int stride, bool transposed, bool need_x, "
      "Tensor? onto) -> (Tensor, Tensor, Tensor)");
  m.def("labels(Tensor sums, Tensor weights, Tensor[] low, Tensor[] high, Tensor[] share, int[] paint, bool wide) -> Tensor");
}

TORCH_LIBRARY_IMPL(mednextv2_native, CPU, m) {
  m.impl("mlp", &mlp_forward);
  m.impl("mlp_backward", &mlp_backward);
  m.impl("depthwise", &depthwise_forward);
  m.impl("depthwise_backward", &depthwise_backward);
  m.impl("labels", &labels);
}
