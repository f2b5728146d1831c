// The unit tests of pure functions, as one file: for each change everything is loaded anew, and so only once.
import "../unit/changes.test";
import "../unit/cidr.test";
import "../unit/compare.test";
import "../unit/config.test";
import "../unit/faults.test";
import "../unit/groupRules.test";
import "../unit/policy.test";
import "../unit/regions.test";
import "../unit/ruleset.test";
