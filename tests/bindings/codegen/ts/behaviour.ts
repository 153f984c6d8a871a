// What generated TypeScript does, apart from the codec: types, defaults, redaction, services. Compiled and run with the toy.
import { CONTRACT_VERSION, GRAINS } from "./constants.js";
import { ErrorCode } from "./errors.js";
import { BoxRef, Colour, ErrorDetail, Everything, EverythingMood, PutRequest, Thing } from "./messages.js";
import { BoxService, type Method } from "./services.js";
import { Duration, WireError } from "./wire.js";

function check(truth: boolean, what: string): void {
  if (!truth) throw new Error(what);
}

const everything = Everything.create({
  password: "hunter2",
  choice: { case: "secret", value: new Uint8Array([222, 173]) },
  byNumber: new Map([[-1, { depth: -3, children: [] }]]),
});
const again: Everything = Everything.decode(Everything.encode(everything));
check(again.choice?.case === "secret" && again.choice.value[0] === 222, "a oneof comes back");
check(again.password === "hunter2" && again.perhaps === undefined && again.far === 0n, "presence and defaults");
check(again.byNumber.get(-1)?.depth === -3, "maps");
check(again.moods.length === 0 && EverythingMood.GOOD === 1, "nested enums");
console.log(everything, again);
console.log(JSON.stringify({ everything }));
console.log(`${everything}`);
console.log(Everything.describe({ password: "hunter2" }), Everything.describe({}));

const thing = Thing.create({ colour: Colour.BLUE, data: new Uint8Array([1, 2]), age: { seconds: 2n, nanos: 0 } });
check(Colour.BLUE === 1 && Thing.encode(thing)[Thing.encode(thing).length - 5] === 2, "the wire has the number plus one");
check(Thing.decode(Thing.encode(thing)).colour === Colour.BLUE, "and languages the code");
const open: Colour = 17;
check(Thing.decode(Thing.encode({ colour: open })).colour === 17, "enums are open");
console.log(`${thing}`, `${Thing.create()}`, `${Duration.create()}`);

try {
  Thing.decode(new Uint8Array([0x12, 5, 1]));
  check(false, "truncated bytes were taken");
} catch (error) {
  check(error instanceof WireError && error.reason === "truncated", String(error));
}

const put: Method<PutRequest, object, "none"> = BoxService.put;
check(put.path === "/toy.v1.BoxService/Put" && BoxService.echo.streams === "both", "services");
check(BoxService.watch.streams === "responses" && BoxService.fill.streams === "requests", "streams");
check(put.request.encode({ box: BoxRef.create({ handle: 7n }) }).length === 4, "codec by service");
check(ErrorDetail.create({ code: ErrorCode.SHUT }).code === 1, "errors by name");
check(CONTRACT_VERSION === 7 && GRAINS === 2 ** 48, "constants");
console.log("ok");
