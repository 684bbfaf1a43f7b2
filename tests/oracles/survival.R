# The numbers of tests/oracles/survival.json, R 4.2, survival 3.5-3, cmprsk 2.2-11:
#   python tests/survival_tables.py /tmp/tables && Rscript tests/oracles/survival.R /tmp/tables > tests/oracles/survival.json
suppressMessages({library(survival); library(cmprsk); library(splines)})
folder <- commandArgs(TRUE)[1]
d <- read.csv(file.path(folder, "patients.csv"))
s <- read.csv(file.path(folder, "start_stop.csv"))
d$stage <- factor(d$stage); d$sex <- factor(d$sex)
d$site <- factor(d$site, levels = c("north", "south", "east", "west"))
tight <- coxph.control(eps = 1e-12, iter.max = 100)
out <- list()
say <- function(name, values) out[[name]] <<- unname(as.numeric(values))

fits <- list(
  exact = coxph(Surv(time, status == 1) ~ age + bmi + sex + stage, d, control = tight),
  stratified = coxph(Surv(time, status == 1) ~ age + bmi + sex + stage + strata(site), d, control = tight),
  breslow = coxph(Surv(time, status == 1) ~ age + bmi + sex + stage + strata(site), d, ties = "breslow", control = tight),
  truncated = coxph(Surv(entry, time, status == 1) ~ age + bmi + sex + stage, d, control = tight),
  truncated_stratified = coxph(Surv(entry, time, status == 1) ~ age + bmi + sex + stage + strata(site), d, control = tight),
  weighted = coxph(Surv(time, status == 1) ~ age + bmi + sex + stage, d, weights = weight, robust = FALSE, control = tight),
  cause2 = coxph(Surv(time, status == 2) ~ age + bmi + sex + stage, d, control = tight),
  start_stop = coxph(Surv(start, stop, death) ~ age + marker, s, control = tight),
  interaction = coxph(Surv(time, status == 1) ~ age * sex + bmi, d, control = tight)
)
for (name in names(fits)) {
  f <- fits[[name]]
  say(paste0(name, ".coef"), coef(f)); say(paste0(name, ".se"), sqrt(diag(vcov(f))))
  say(paste0(name, ".loglik"), f$loglik)
  say(paste0(name, ".tests"), c(summary(f)$logtest[1], summary(f)$sctest[1], summary(f)$waldtest[1]))
  say(paste0(name, ".concordance"), c(concordance(f)$concordance, sqrt(concordance(f)$var)))
  for (g in c("km", "rank", "identity", "log")) say(paste(name, "zph", g, sep = "."), cox.zph(f, transform = g)$table[, "chisq"])
}
# summary() gives Wald to two digits.
for (name in names(fits)) { f <- fits[[name]]; say(paste0(name, ".wald"), f$wald.test); say(paste0(name, ".score"), f$score) }
f <- coxph(Surv(start, stop, death) ~ age + marker, s, cluster = id, control = tight)
say("clustered.se", sqrt(diag(vcov(f))))
f <- coxph(Surv(start, stop, death) ~ age + marker + strata(site), s, cluster = id, control = tight)
say("clustered_stratified.coef", coef(f)); say("clustered_stratified.se", sqrt(diag(vcov(f))))
f <- coxph(Surv(time, status == 1) ~ age + bmi, d, weights = weight, cluster = id, control = tight)
say("weighted_robust.se", sqrt(diag(vcov(f))))

# Natural cubic spline of age with boundary knots 50 and 88 and inner knots 62 and 75.
f <- coxph(Surv(time, status == 1) ~ ns(age, knots = c(62, 75), Boundary.knots = c(50, 88)) + bmi, d, control = tight)
g <- coxph(Surv(time, status == 1) ~ age + bmi, d, control = tight)
say("spline.loglik", f$loglik); say("spline.nonlinear", 2 * (f$loglik[2] - g$loglik[2]))
say("spline.bmi", c(coef(f)[4], sqrt(vcov(f)[4, 4])))
p <- predict(f, data.frame(age = c(45, 60, 70, 80, 95), bmi = 27)); say("spline.curve", p - p[2])

# Near-tied times: R's timefix takes them as tied.
e <- d[d$status == 1, ]; e$time <- e$time + rep(c(0, 2e-10, -2e-10), length.out = nrow(e)) ; e2 <- d; e2$time[d$status == 1] <- e$time
f <- coxph(Surv(time, status == 1) ~ age + bmi, e2, control = tight); say("near_ties.coef", coef(f)); say("near_ties.loglik", f$loglik)

# Baseline and prediction for new people: log-survival errors by Tsiatis and Greenwood together, as survfit has them.
new <- data.frame(age = c(60, 80), bmi = c(25, 30), sex = factor(c("F", "M"), levels = levels(d$sex)), stage = factor(c(1, 3), levels = 1:3))
at <- c(200, 600, 1200)
q <- summary(survfit(fits$exact, newdata = new), times = at)
say("predict.survival", q$surv); say("predict.se", q$std.err)
b <- basehaz(fits$exact, centered = FALSE); say("baseline.hazard", sapply(at, function(t) max(b$hazard[b$time <= t])))
q <- summary(survfit(fits$stratified, newdata = new[1, ]), times = at[1:2]); say("predict.stratified", q$surv)

# Kaplan-Meier, log-rank, restricted mean.
k <- survfit(Surv(time, status > 0) ~ sex, d, conf.type = "log-log"); q <- summary(k, times = at)
say("km.survival", q$surv); say("km.se", q$std.err); say("km.low", q$lower); say("km.high", q$upper); say("km.at_risk", q$n.risk)
say("km.median", summary(k)$table[, c("median", "0.95LCL", "0.95UCL")])
k <- survfit(Surv(entry, time, status > 0) ~ sex, d, conf.type = "log-log"); q <- summary(k, times = at)
say("km_truncated.survival", q$surv); say("km_truncated.se", q$std.err)
k <- survfit(Surv(time, status > 0) ~ sex, d, weights = weight, robust = FALSE); q <- summary(k, times = at); say("km_weighted.survival", q$surv)
t <- summary(survfit(Surv(time, status > 0) ~ sex, d), rmean = 1200)$table; say("rmst", t[, c("rmean", "se(rmean)")])
say("logrank", survdiff(Surv(time, status > 0) ~ stage, d)$chisq)
say("logrank.stratified", survdiff(Surv(time, status > 0) ~ stage + strata(site), d)$chisq)
x <- survdiff(Surv(time, status > 0) ~ stage, d); say("logrank.expected", x$exp)

# Competing deaths.
a <- survfit(Surv(time, factor(status)) ~ sex, d); q <- summary(a, times = at)
say("aj.cardiac", q$pstate[, 2]); say("aj.other", q$pstate[, 3]); say("aj.se", q$std.err[, 2])
a <- survfit(Surv(entry, time, factor(status)) ~ 1, d, id = id); q <- summary(a, times = at)
say("aj_truncated.cardiac", q$pstate[, 2])
u <- cuminc(d$time, d$status, d$sex); q <- timepoints(u, at)
say("cuminc.estimate", t(q$est[c("F 1", "M 1"), ])); say("cuminc.variance", t(q$var[c("F 1", "M 1"), ])); say("gray", u$Tests[, "stat"])
say("gray.strata", cuminc(d$time, d$status, d$stage, strata = d$site)$Tests[, "stat"])
x <- model.matrix(~ age + bmi + sex + stage, d)[, -1]
c1 <- crr(d$time, d$status, x, gtol = 1e-12, maxiter = 100); say("finegray.coef", c1$coef); say("finegray.se", sqrt(diag(c1$var))); say("finegray.loglik", c1$loglik)
c2 <- crr(d$time, d$status, x, cengroup = d$site, gtol = 1e-12, maxiter = 100); say("finegray_groups.coef", c2$coef); say("finegray_groups.se", sqrt(diag(c2$var)))
fg <- finegray(Surv(time, factor(status)) ~ ., d, etype = 1)
f <- coxph(Surv(fgstart, fgstop, fgstatus) ~ age + bmi + sex + stage, weights = fgwt, fg, control = tight, id = id)
say("finegray_efron.coef", coef(f)); say("finegray_efron.se", sqrt(diag(vcov(f))))
fg <- finegray(Surv(time, factor(status)) ~ . + strata(site), d, etype = 1)
f <- coxph(Surv(fgstart, fgstop, fgstatus) ~ age + bmi + sex + stage + strata(site), weights = fgwt, fg, control = tight, id = id)
say("finegray_stratified.coef", coef(f)); say("finegray_stratified.se", sqrt(diag(vcov(f))))

cat("{\n", paste(sprintf(' "%s": [%s]', names(out), sapply(out, function(v) paste(ifelse(is.na(v), "null", sprintf("%.12g", v)), collapse = ", "))), collapse = ",\n"), "\n}\n", sep = "")
