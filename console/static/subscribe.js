// A subscription that comes back: millrace.v1 over WebSocket, resumed by the position of the last event.

const longest = 10_000; // ms between two tries

export function subscribe(path, { event, state = () => {}, gap = () => {} }) {
  let socket, timer, position, tries = 0, closed = false;

  function open() {
    const url = new URL(path, location.href);
    url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    if (position) url.searchParams.set("since", position);
    socket = new WebSocket(url, "millrace.v1");
    socket.onopen = () => { tries = 0; state("live"); };
    socket.onmessage = (message) => {
      const frame = JSON.parse(message.data);
      if (frame.id) position = frame.id;
      if (frame.gap) gap(frame.gap);
      else if ("key" in frame) event(frame);
    };
    socket.onclose = () => {
      if (closed) return;
      state("reconnecting");
      // Full jitter, so that many pages do not come back in one moment.
      timer = setTimeout(open, Math.random() * Math.min(longest, 500 * 2 ** tries++));
    };
  }

  open();
  return {
    close() {
      closed = true;
      clearTimeout(timer);
      socket.close();
    },
  };
}
