// What index.d.ts declares is what the modules are. TypeScript's compiler runs this, nothing else does.

import * as declared from "../index.js"; // index.d.ts
import { connect } from "../client.js";
import { MillraceError } from "../error.js";
import { NodeWebSocket } from "../node-websocket.js";

const implemented = { connect, MillraceError };
implemented satisfies typeof declared;
type Same<A, B> = [keyof A, keyof B] extends [keyof B, keyof A] ? true : never;
const complete: Same<typeof implemented, typeof declared> = true;

// A user's program.
async function use() {
  const client = declared.connect("wss://example.org/live", { getToken: async () => "token", backoff: { most: 1000 }, WebSocket: NodeWebSocket });
  client.on("state", (state, { code, delay }) => console.log(state satisfies declared.ClientState, code, delay));
  client.on("error", (error) => console.log(error.code, error.message));
  const all = client.subscribe({ to: "/vehicles", since: new Date() }, (event) => console.log(event.key, event.data.speed));
  const near = client.subscribe({ to: "/vehicles", since: "latest", area: { box: [8, 44, 9, 45] } }, {
    event({ key, data, deleted }) { console.log(key, data, deleted); },
    left({ key }) { console.log(key); },
    gap({ reason }) { console.log(reason); },
    error({ code }) { if (code === "denied") all.unsubscribe(); },
  });
  near.update({ area: { circle: { lat: 45, lon: 9, radius: 100 } } });
  for await (const m of client.subscribe({ keys: ["1"], filter: "speed > 5", since: near.id })) {
    if (m.kind === "event") console.log(m.data);
    else if (m.kind === "gap") console.log(m.first);
  }
  // @ts-expect-error there is no such option
  client.subscribe({ filters: "x" });
  // @ts-expect-error a box has four sides
  near.update({ area: { box: [1, 2] } });
  client.close();
}

void [complete, use];
