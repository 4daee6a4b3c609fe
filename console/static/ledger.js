// Counts what has come against the numbers that each key's events have.

export class Ledger {
  #number; #next = new Map();
  received = 0;
  lost = 0;
  repeated = 0;

  // number is the member of the data that numbers a key's events.
  constructor(number) {
    this.#number = number;
  }

  // enter takes an event. The first of a key says where its numbers begin here.
  enter({ key, data }) {
    const number = data?.[this.#number];
    if (!Number.isInteger(number)) return;
    const expected = this.#next.get(key) ?? number;
    this.received++;
    if (number < expected) {
      this.repeated++;
      return;
    }
    this.lost += number - expected;
    this.#next.set(key, number + 1);
  }

  // begin is called when another subscription begins, or the same begins anew.
  begin() {
    this.#next.clear();
  }
}
