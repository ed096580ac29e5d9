// Included inside the namespace of one instruction set, after the headers above: its table.
template <class S, class T> static const Kernels* table() {
  typedef MlpForward<S, T> M;
  typedef MlpBackward<S, T> B;
  typedef Depthwise<S> D;
  static const Kernels kernels = {V, ROWS, sizeof(T), M::scratch_bytes, packed_elements<T>, pack<T>, M::squares, M::output,
                                  B::products, B::gradients, B::finish, B::column_sums, D::run, D::run_weight};
  return &kernels;
}
