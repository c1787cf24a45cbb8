# Prints fixtures.json with the results of other implementations for its samples. Our statistics are
# compared with these results. A new entry needs only its samples and, in `by`, the implementation.
#
# The samples were drawn once, from normal distributions. Those for coin are rounded to halves, so
# that there are ties and zeros. scipy gives the same p-values for them, by counting permutations.
#
# Needs R, and of its packages coin and jsonlite:
#     apt-get install r-base-core r-cran-coin r-cran-jsonlite
#     Rscript fixtures.R fixtures.json > new.json && mv new.json fixtures.json
suppressPackageStartupMessages(library(coin))
library(jsonlite)

with_interval <- function(test) {
    list(p = test$p.value, shift = unname(test$estimate),
         low = test$conf.int[1], high = test$conf.int[2])
}

# The exact p-value of a permutation test: twice that of the smaller side.
permuted <- function(test, formula, data, ...) {
    side <- function(alternative) {
        result <- test(formula, data, alternative = alternative, distribution = "exact", ...)
        as.numeric(pvalue(result))
    }
    list(p = min(1, 2 * side("less"), 2 * side("greater")))
}

answer <- list(
    paired = function(entry) {
        d <- unlist(entry$differences)
        switch(entry$by,
            "R" = with_interval(wilcox.test(d, exact = TRUE, conf.int = TRUE)),
            "R, normal approximation" = list(p = wilcox.test(d, exact = FALSE)$p.value),
            "R, coin" = permuted(wilcoxsign_test, d ~ zero, data.frame(d, zero = 0),
                                 zero.method = "Pratt"))
    },
    unpaired = function(entry) {
        x <- unlist(entry$before)
        y <- unlist(entry$after)
        both <- stack(list(y = y, x = x))
        switch(entry$by,
            "R" = with_interval(wilcox.test(y, x, exact = TRUE, conf.int = TRUE)),
            "R, normal approximation" = list(p = wilcox.test(y, x, exact = FALSE)$p.value),
            "R, coin" = permuted(wilcox_test, values ~ ind, both))
    },
    holm = function(entry) list(adjusted = as.list(p.adjust(unlist(entry$p), "holm"))),
    shares = function(entry) {
        interval <- binom.test(entry$count, entry$of)$conf.int
        list(low = interval[1], high = interval[2])
    })

# Returns the shortest text that reads back as the same number.
shortest <- function(number) {
    digits <- sprintf("%.*g", 15:17, number)
    digits <- digits[as.numeric(digits) == number][1]
    structure(if (grepl("[.e]", digits)) digits else paste0(digits, ".0"), class = "json")
}

fixtures <- read_json(commandArgs(trailingOnly = TRUE))
for (kind in names(answer)) {
    fixtures[[kind]] <- lapply(fixtures[[kind]], function(entry) {
        modifyList(entry, answer[[kind]](entry))
    })
}
fixtures <- rapply(fixtures, shortest, classes = "numeric", how = "replace")
cat(toJSON(fixtures, auto_unbox = TRUE, pretty = 1, json_verbatim = TRUE))
