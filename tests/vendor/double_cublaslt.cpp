// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// cuBLASLt's half of the double (double.hpp): float32 matrices in column-major order, strided stacks, the epilogues bias and ReLU.
#include <cublasLt.h>

#include "../../kernels/reference/table.hpp"
#include "double_parts.hpp"

struct cublasLtContext {};

namespace vendor_double {
namespace {

struct Operation : cublasLtMatmulDescOpaque_t {
  cublasComputeType_t compute = CUBLAS_COMPUTE_32F;
  cublasOperation_t a = CUBLAS_OP_N, b = CUBLAS_OP_N;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  const void* bias = nullptr;
};
struct Layout : cublasLtMatrixLayoutOpaque_t {
  std::int64_t rows = 0, columns = 0, ld = 0, stride = 0;
  std::int32_t batch = 1;
};
struct Preference : cublasLtMatmulPreferenceOpaque_t {
  std::uint64_t workspace = 0;
  std::uint32_t reductions = 0xffffffff;
  std::uint32_t alignment[4] = {256, 256, 256, 256};
};

cublasStatus_t obey(const char* function, const std::function<void()>& body) {
  return obey_rules<cublasStatus_t>(function, CUBLAS_STATUS_SUCCESS, CUBLAS_STATUS_INVALID_VALUE, CUBLAS_STATUS_NOT_SUPPORTED,
                                    CUBLAS_STATUS_INTERNAL_ERROR, body);
}
template <class Mine, class Theirs>
Mine& mine(const char* what, Theirs* p) {
  need(p != nullptr, std::string("no ") + what);
  return *static_cast<Mine*>(p);
}
template <class T>
void take(T& into, const void* from, std::size_t bytes) {
  need(from && bytes == sizeof(T), "an attribute of " + std::to_string(bytes) + " bytes instead of " + std::to_string(sizeof(T)));
  std::memcpy(&into, from, sizeof(T));
}

/// What a product is, once its parts fit.
struct Problem {
  std::int64_t m, n, k;
  std::int32_t batch;
  Rounding rounding;
  bool operator==(const Problem&) const = default;
};
Problem problem_of(const Operation& o, const Layout& a, const Layout& b, const Layout& c, const Layout& d) {
  const auto rows = [](const Layout& l, cublasOperation_t op) { return op == CUBLAS_OP_N ? l.rows : l.columns; };
  const auto columns = [](const Layout& l, cublasOperation_t op) { return op == CUBLAS_OP_N ? l.columns : l.rows; };
  Problem p{rows(a, o.a), columns(b, o.b), columns(a, o.a), d.batch, Rounding::none};
  need(rows(b, o.b) == p.k, "the depths of A and B differ");
  need(d.rows == p.m && d.columns == p.n && c.rows == p.m && c.columns == p.n, "C or D has another size than the product");
  for (const Layout* l : {&a, &b, &c, &d}) {
    need(l->ld >= l->rows, "a leading dimension is smaller than its rows");
    need(l->batch == d.batch, "the stacks differ in height");
    need(l->batch == 1 || l->stride >= l->ld * l->columns, "matrices of a stack overlap");
  }
  p.rounding = o.compute == CUBLAS_COMPUTE_32F_FAST_TF32   ? Rounding::tf32
               : o.compute == CUBLAS_COMPUTE_32F_FAST_16BF ? Rounding::bf16
                                                           : Rounding::none;
  return p;
}
bool has_bias(cublasLtEpilogue_t e) { return e == CUBLASLT_EPILOGUE_BIAS || e == CUBLASLT_EPILOGUE_RELU_BIAS; }
bool has_relu(cublasLtEpilogue_t e) { return e == CUBLASLT_EPILOGUE_RELU || e == CUBLASLT_EPILOGUE_RELU_BIAS; }

/// What the heuristic writes into an algorithm, so that cublasLtMatmul knows for what it was chosen.
struct Ticket {
  Problem problem;
  std::uint32_t scratch, alignment;
};
static_assert(sizeof(Ticket) <= sizeof(cublasLtMatmulAlgo_t));

std::size_t bytes_of(const Layout& l) {
  return static_cast<std::size_t>((l.batch - 1) * (l.batch > 1 ? l.stride : 0) + (l.columns - 1) * l.ld + l.rows) * sizeof(float);
}
/// Element (row, column) of op(matrix i), rounded as the product takes it; dense, row after row.
std::vector<float> gather(const void* from, const Layout& l, cublasOperation_t op, std::int32_t i, Rounding how) {
  const float* const base = static_cast<const float*>(from) + i * (l.batch > 1 ? l.stride : 0);
  const std::int64_t rows = op == CUBLAS_OP_N ? l.rows : l.columns, columns = op == CUBLAS_OP_N ? l.columns : l.rows;
  std::vector<float> v(static_cast<std::size_t>(rows * columns));
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < columns; ++c)
      v[static_cast<std::size_t>(r * columns + c)] = op == CUBLAS_OP_N ? base[c * l.ld + r] : base[r * l.ld + c];
  return rounded(v.data(), rows * columns, how);
}

}  // namespace
}  // namespace vendor_double

using namespace vendor_double;  // the functions below are the library's, by their own names

extern "C" {

size_t CUBLASWINAPI cublasLtGetVersion(void) { return CUBLAS_VERSION; }
const char* CUBLASWINAPI cublasLtGetStatusString(cublasStatus_t s) {
  return s == CUBLAS_STATUS_SUCCESS         ? "CUBLAS_STATUS_SUCCESS"
         : s == CUBLAS_STATUS_INVALID_VALUE ? "CUBLAS_STATUS_INVALID_VALUE"
         : s == CUBLAS_STATUS_NOT_SUPPORTED ? "CUBLAS_STATUS_NOT_SUPPORTED"
                                            : "CUBLAS_STATUS_INTERNAL_ERROR";
}
cublasStatus_t CUBLASWINAPI cublasLtCreate(cublasLtHandle_t* handle) {
  return obey("cublasLtCreate", [&] { *handle = new cublasLtContext; });
}
cublasStatus_t CUBLASWINAPI cublasLtDestroy(cublasLtHandle_t handle) {
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t CUBLASWINAPI cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* out, cublasComputeType_t compute, cudaDataType_t scale) {
  return obey("cublasLtMatmulDescCreate", [&] {
    need(compute == CUBLAS_COMPUTE_32F || compute == CUBLAS_COMPUTE_32F_FAST_TF32 || compute == CUBLAS_COMPUTE_32F_FAST_16BF,
         "sums are float32");
    need(scale == CUDA_R_32F, "alpha and beta are float32");
    auto* const o = new Operation;
    o->compute = compute;
    *out = o;
    count_descriptor(1);
  });
}
cublasStatus_t CUBLASWINAPI cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d) {
  delete static_cast<Operation*>(d);
  count_descriptor(-1);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t CUBLASWINAPI cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t which, const void* value,
                                                           size_t bytes) {
  return obey("cublasLtMatmulDescSetAttribute", [&] {
    Operation& o = mine<Operation>("operation", d);
    if (which == CUBLASLT_MATMUL_DESC_TRANSA) return take(o.a, value, bytes);
    if (which == CUBLASLT_MATMUL_DESC_TRANSB) return take(o.b, value, bytes);
    if (which == CUBLASLT_MATMUL_DESC_EPILOGUE) return take(o.epilogue, value, bytes);
    if (which == CUBLASLT_MATMUL_DESC_BIAS_POINTER) return take(o.bias, value, bytes);
    need(false, "an attribute that the double does not know");
  });
}

cublasStatus_t CUBLASWINAPI cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* out, cudaDataType type, uint64_t rows, uint64_t columns,
                                                       int64_t ld) {
  return obey("cublasLtMatrixLayoutCreate", [&] {
    need(type == CUDA_R_32F, "our matrices are float32");
    need(rows > 0 && columns > 0, "an empty matrix");
    auto* const l = new Layout;
    l->rows = static_cast<std::int64_t>(rows), l->columns = static_cast<std::int64_t>(columns), l->ld = ld;
    *out = l;
    count_descriptor(1);
  });
}
cublasStatus_t CUBLASWINAPI cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l) {
  delete static_cast<Layout*>(l);
  count_descriptor(-1);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t CUBLASWINAPI cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t d, cublasLtMatrixLayoutAttribute_t which,
                                                             const void* value, size_t bytes) {
  return obey("cublasLtMatrixLayoutSetAttribute", [&] {
    Layout& l = mine<Layout>("layout", d);
    if (which == CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT) return take(l.batch, value, bytes);
    if (which == CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET) return take(l.stride, value, bytes);
    need(false, "an attribute that the double does not know");
  });
}

cublasStatus_t CUBLASWINAPI cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* out) {
  return obey("cublasLtMatmulPreferenceCreate", [&] {
    *out = new Preference;
    count_descriptor(1);
  });
}
cublasStatus_t CUBLASWINAPI cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p) {
  delete static_cast<Preference*>(p);
  count_descriptor(-1);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t CUBLASWINAPI cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t d, cublasLtMatmulPreferenceAttributes_t which,
                                                                 const void* value, size_t bytes) {
  return obey("cublasLtMatmulPreferenceSetAttribute", [&] {
    Preference& p = mine<Preference>("preference", d);
    if (which == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES) return take(p.workspace, value, bytes);
    if (which == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK) return take(p.reductions, value, bytes);
    const cublasLtMatmulPreferenceAttributes_t alignments[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    for (int i = 0; i < 4; ++i)
      if (which == alignments[i]) return take(p.alignment[i], value, bytes);
    need(false, "an attribute that the double does not know");
  });
}

cublasStatus_t CUBLASWINAPI cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation,
                                                           cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                                                           cublasLtMatrixLayout_t d, cublasLtMatmulPreference_t preference, int wanted,
                                                           cublasLtMatmulHeuristicResult_t results[], int* found) {
  return obey("cublasLtMatmulAlgoGetHeuristic", [&] {
    need(handle && results && found && wanted > 0, "no handle, or nowhere to put the answer");
    const Operation& o = mine<Operation>("operation", operation);
    const Preference& p = mine<Preference>("preference", preference);
    const Problem problem = problem_of(o, mine<Layout>("A", a), mine<Layout>("B", b), mine<Layout>("C", c), mine<Layout>("D", d));
    need(!has_bias(o.epilogue) || o.bias, "the epilogue's bias has no pointer yet: its alignment decides");
    need((p.reductions & ~static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE)) == 0,
         "parts might be added in another type, or in place");
    *found = 0;
    if (!behaviour().products) throw NotSupported();
    Ticket ticket{problem, static_cast<std::uint32_t>(1 + problem.k % 1000 * 16), p.alignment[0]};
    for (const std::uint32_t alignment : p.alignment) {
      need(alignment >= 4 && (alignment & (alignment - 1)) == 0, "an alignment is no power of two");
      ticket.alignment = alignment < ticket.alignment ? alignment : ticket.alignment;
    }
    if (ticket.scratch > p.workspace) ticket.scratch = 0;
    results[0] = {};
    std::memcpy(&results[0].algo, &ticket, sizeof ticket);
    results[0].workspaceSize = ticket.scratch;
    results[0].state = CUBLAS_STATUS_SUCCESS;
    *found = 1;
  });
}

cublasStatus_t CUBLASWINAPI cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation, const void* alpha, const void* a,
                                           cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout,
                                           const void* beta, const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                                           cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algo, void* scratch, size_t bytes,
                                           cudaStream_t stream) {
  return obey("cublasLtMatmul", [&] {
    need(handle && alpha && beta && algo, "no handle, factor or algorithm");
    const Operation& o = mine<Operation>("operation", operation);
    const Layout &la = mine<Layout>("A", a_layout), &lb = mine<Layout>("B", b_layout), &lc = mine<Layout>("C", c_layout),
                 &ld = mine<Layout>("D", d_layout);
    const Problem p = problem_of(o, la, lb, lc, ld);
    Ticket ticket{};
    std::memcpy(&ticket, algo, sizeof ticket);
    need(ticket.problem == p, "the algorithm was chosen for another product");
    need(bytes >= ticket.scratch, "the workspace has " + std::to_string(bytes) + " bytes of " + std::to_string(ticket.scratch));
    need_memory("A", a, bytes_of(la), ticket.alignment);
    need_memory("B", b, bytes_of(lb), ticket.alignment);
    need_memory("C", c, bytes_of(lc), ticket.alignment);
    need_memory("D", d, bytes_of(ld), ticket.alignment);
    if (bytes > 0) need_memory("the workspace", scratch, bytes);
    need_apart("A and D", a, bytes_of(la), d, bytes_of(ld));
    need_apart("B and D", b, bytes_of(lb), d, bytes_of(ld));
    if (c != d) need_apart("C and D", c, bytes_of(lc), d, bytes_of(ld));
    need_apart("D and the workspace", d, bytes_of(ld), scratch, bytes);
    need(has_bias(o.epilogue) || has_relu(o.epilogue) || o.epilogue == CUBLASLT_EPILOGUE_DEFAULT,
         "an epilogue that the double does not know");
    if (has_bias(o.epilogue)) need_memory("the bias", o.bias, static_cast<std::size_t>(p.m) * sizeof(float), 4);
    spoil(scratch, ticket.scratch);
    const float x = *static_cast<const float*>(alpha), y = *static_cast<const float*>(beta);
    for (std::int32_t i = 0; i < p.batch; ++i) {
      const auto left = gather(a, la, o.a, i, p.rounding), right = gather(b, lb, o.b, i, p.rounding);
      std::vector<float> value(static_cast<std::size_t>(p.m * p.n));
      const tg_matmul_desc desc{1, p.m, p.n, p.k, 0, 0, kTgFloat32, kTgConvAuto};
      tomograd::kernels::reference_kernels()->matmul(&desc, left.data(), right.data(), value.data(), here());
      const float* const from = static_cast<const float*>(c) + i * (lc.batch > 1 ? lc.stride : 0);
      float* const to = static_cast<float*>(d) + i * (ld.batch > 1 ? ld.stride : 0);
      for (std::int64_t row = 0; row < p.m; ++row)
        for (std::int64_t column = 0; column < p.n; ++column) {
          float v = x * value[static_cast<std::size_t>(row * p.n + column)];
          if (y != 0) v += y * from[column * lc.ld + row];
          if (has_bias(o.epilogue)) v += static_cast<const float*>(o.bias)[row];
          to[column * ld.ld + row] = has_relu(o.epilogue) && v < 0 ? 0.0f : v;
        }
    }
    ran(std::string("cublasLtMatmul") + suffix(p.rounding), stream);
  });
}

}  // extern "C"
