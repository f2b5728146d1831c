// What `make api` leaves out of docs/api.md: what TypeDoc would say twice, or says of Pulumi's own classes.
import { Converter } from "typedoc";

export function load({ converter }) {
  converter.on(Converter.EVENT_RESOLVE_END, ({ project }) => {
    for (const reflection of Object.values(project.reflections)) {
      if (reflection.inheritedFrom) project.removeReflection(reflection);
      delete reflection.overwrites;
    }
  });
}
