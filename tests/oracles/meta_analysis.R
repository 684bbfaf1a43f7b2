# The numbers of tests/unit/ecgshared/test_meta_analysis.py: Rscript tests/oracles/meta_analysis.R (metafor 3.8-1).
library(metafor)
for (case in list(
  list(y = c(0.42, 0.10, 0.71), se = c(0.12, 0.20, 0.15)),
  list(y = c(-0.31, 0.05, 0.22, 0.40, 0.18), se = c(0.10, 0.30, 0.08, 0.25, 0.15)),
  list(y = c(0.20, 0.21, 0.19, 0.22), se = c(0.10, 0.12, 0.20, 0.15))
)) {
  f <- rma(case$y, sei = case$se, method = "REML", test = "knha", control = list(threshold = 1e-12, maxiter = 1000))
  cat(sprintf("%.10f %.10f %.10f %.10f %.10f\n", f$tau2, f$beta, f$se, f$ci.lb, f$ci.ub))
}
