// Some two thousand changes are tried: a few dozen random cases of each property find them as well as a hundred, and nobody needs
// the smallest case that does.
require("fast-check").configureGlobal({ numRuns: 30, endOnFailure: true });
