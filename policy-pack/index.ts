// A policy pack of Pulumi: `pulumi preview --policy-pack node_modules/mail-firewall/dist/policy-pack`.
import { PolicyPack } from "@pulumi/policy";

import { groupRegions, policies } from "./policies";

new PolicyPack("mail-firewall", {
  policies: policies.map(({ name, description, enforcementLevel, find, findInGroup }) => ({
    name,
    description,
    enforcementLevel,
    ...(findInGroup && {
      validateResource: ({ type, props }, report) =>
        findInGroup(groupRegions(type, props)).forEach((one) => report(one)),
    }),
    validateStack: ({ resources }, report) => {
      const all = resources.map((resource) => ({
        urn: resource.urn,
        name: resource.name,
        props: resource.props,
        propertyDependencies: Object.fromEntries(
          Object.entries(resource.propertyDependencies).map(([key, from]) => [key, from.map(({ urn }) => urn)]),
        ),
      }));
      for (const { urn, message } of find(all)) report(message, urn);
    },
  })),
});
