// A small RFB 3.8 client (RFC 6143) for the address form that noVNC uses: the page's parameter
// "path" names the WebSocket from the root of this host. Encodings: raw, copy rectangle, desktop size.
"use strict";

const canvas = document.getElementById("screen");
const screen2d = canvas.getContext("2d");
const label = document.getElementById("status");

function say(text) {
  label.textContent = text;
}

const parameters = new URLSearchParams(location.search);
const scheme = location.protocol === "https:" ? "wss://" : "ws://";
const path = (parameters.get("path") || "websockify?token=" + (parameters.get("token") || "")).replace(/^\//, "");
const socket = new WebSocket(scheme + location.host + "/" + path, ["binary"]);
socket.binaryType = "arraybuffer";

// Bytes that have come and are not read yet.
let pending = new Uint8Array(0);
let wanted = 0;
let wake = null;

socket.onmessage = (event) => {
  const more = new Uint8Array(event.data);
  const joined = new Uint8Array(pending.length + more.length);
  joined.set(pending);
  joined.set(more, pending.length);
  pending = joined;
  if (wake && pending.length >= wanted) {
    const go = wake;
    wake = null;
    go();
  }
};
socket.onclose = () => say("Disconnected.");
socket.onerror = () => say("The connection failed.");
socket.onopen = () => session().catch((e) => { say(String(e.message || e)); socket.close(); });

async function take(n) {
  if (pending.length < n) {
    wanted = n;
    await new Promise((resolve) => { wake = resolve; });
  }
  const out = pending.subarray(0, n);
  pending = pending.subarray(n);
  return new DataView(out.buffer, out.byteOffset, n);
}

function bytesOf(view) {
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
}

function send(...bytes) {
  if (socket.readyState === WebSocket.OPEN) {
    socket.send(new Uint8Array(bytes));
  }
}

const u16 = (n) => [(n >> 8) & 255, n & 255];
const u32 = (n) => [(n >>> 24) & 255, (n >> 16) & 255, (n >> 8) & 255, n & 255];

async function text(length) {
  return new TextDecoder("utf-8").decode(bytesOf(await take(length)));
}

async function session() {
  const version = await text(12);
  if (!version.startsWith("RFB 003.")) {
    throw new Error("The server does not speak RFB.");
  }
  send(...new TextEncoder().encode("RFB 003.008\n"));
  const count = (await take(1)).getUint8(0);
  if (count === 0) {
    throw new Error(await text((await take(4)).getUint32(0)));
  }
  if (!bytesOf(await take(count)).includes(1)) {
    throw new Error("The server wants a password.");
  }
  send(1);
  if ((await take(4)).getUint32(0) !== 0) {
    throw new Error("The server refused.");
  }
  send(1);
  const init = await take(24);
  const [width, height, nameLength] = [init.getUint16(0), init.getUint16(2), init.getUint32(20)];
  say(await text(nameLength));
  resize(width, height);
  // 32 bits, little-endian, red in the lowest byte: the canvas's own order.
  send(0, 0, 0, 0, 32, 24, 0, 1, ...u16(255), ...u16(255), ...u16(255), 0, 8, 16, 0, 0, 0);
  send(2, 0, ...u16(3), ...u32(0), ...u32(1), ...u32(-223));
  input();
  request(0);
  for (;;) {
    await message();
  }
}

function resize(width, height) {
  canvas.width = width;
  canvas.height = height;
}

function request(incremental) {
  send(3, incremental, ...u16(0), ...u16(0), ...u16(canvas.width), ...u16(canvas.height));
}

async function message() {
  const kind = (await take(1)).getUint8(0);
  if (kind === 0) {
    const count = (await take(3)).getUint16(1);
    let whole = 1;
    for (let i = 0; i < count; i++) {
      if (await rectangle()) {
        whole = 0;
      }
    }
    request(whole);
  } else if (kind === 1) {
    await take(6 * (await take(5)).getUint16(3));
  } else if (kind === 3) {
    await take((await take(7)).getUint32(3));
  } else if (kind !== 2) {
    throw new Error("Unknown message " + kind + ".");
  }
}

// Draws one rectangle; true when the size changed and all must be asked for again.
async function rectangle() {
  const head = await take(12);
  const [x, y, w, h] = [head.getUint16(0), head.getUint16(2), head.getUint16(4), head.getUint16(6)];
  const encoding = head.getInt32(8);
  if (encoding === -223) {
    resize(w, h);
    return true;
  }
  if (encoding === 1) {
    const from = await take(4);
    if (w && h) {
      screen2d.putImageData(screen2d.getImageData(from.getUint16(0), from.getUint16(2), w, h), x, y);
    }
    return false;
  }
  if (encoding !== 0) {
    throw new Error("Unknown encoding " + encoding + ".");
  }
  if (w && h) {
    const pixels = new Uint8ClampedArray(bytesOf(await take(w * h * 4)));
    for (let i = 3; i < pixels.length; i += 4) {
      pixels[i] = 255;
    }
    screen2d.putImageData(new ImageData(pixels, w, h), x, y);
  }
  return false;
}

// X11 key symbols of keys that print nothing.
const KEYS = {
  Backspace: 0xff08, Tab: 0xff09, Enter: 0xff0d, Escape: 0xff1b, Delete: 0xffff, Insert: 0xff63, Home: 0xff50, End: 0xff57,
  PageUp: 0xff55, PageDown: 0xff56, ArrowLeft: 0xff51, ArrowUp: 0xff52, ArrowRight: 0xff53, ArrowDown: 0xff54, Pause: 0xff13,
  PrintScreen: 0xff61, ScrollLock: 0xff14, NumLock: 0xff7f, CapsLock: 0xffe5, ContextMenu: 0xff67, AltGraph: 0xfe03,
};
const SIDED = { Shift: 0xffe1, Control: 0xffe3, Meta: 0xffe7, Alt: 0xffe9 };

function keysym(event) {
  if (event.key in SIDED) {
    return SIDED[event.key] + (event.location === 2 ? 1 : 0);
  }
  if (event.key in KEYS) {
    return KEYS[event.key];
  }
  const f = /^F([0-9]+)$/.exec(event.key);
  if (f) {
    return 0xffbd + Number(f[1]);
  }
  const points = [...event.key];
  if (points.length !== 1) {
    return 0;
  }
  const code = points[0].codePointAt(0);
  return code < 0x100 ? code : 0x01000000 + code;
}

function key(down, sym) {
  if (sym) {
    send(4, down ? 1 : 0, 0, 0, ...u32(sym));
  }
}

function input() {
  // A key must be let go with the symbol it went down with, whatever Shift did in between.
  const down = new Map();
  canvas.addEventListener("keydown", (e) => {
    const sym = keysym(e);
    down.set(e.code, sym);
    key(true, sym);
    e.preventDefault();
  });
  canvas.addEventListener("keyup", (e) => {
    key(false, down.get(e.code) || keysym(e));
    down.delete(e.code);
    e.preventDefault();
  });
  canvas.addEventListener("blur", () => {
    down.forEach((sym) => key(false, sym));
    down.clear();
  });
  const pointer = (e, extra) => {
    const box = canvas.getBoundingClientRect();
    const clamp = (n, max) => Math.max(0, Math.min(max - 1, Math.round(n)));
    const buttons = (e.buttons & 1) | ((e.buttons & 4) >> 1) | ((e.buttons & 2) << 1) | extra;
    send(5, buttons, ...u16(clamp(e.clientX - box.left, canvas.width)), ...u16(clamp(e.clientY - box.top, canvas.height)));
  };
  for (const name of ["mousedown", "mouseup", "mousemove"]) {
    canvas.addEventListener(name, (e) => {
      if (name === "mousedown") {
        canvas.focus();
      }
      pointer(e, 0);
      e.preventDefault();
    });
  }
  canvas.addEventListener("wheel", (e) => {
    pointer(e, e.deltaY < 0 ? 8 : 16);
    pointer(e, 0);
    e.preventDefault();
  }, { passive: false });
  canvas.addEventListener("contextmenu", (e) => e.preventDefault());
  document.getElementById("cad").addEventListener("click", () => {
    const syms = [0xffe3, 0xffe9, 0xffff];
    syms.forEach((s) => key(true, s));
    syms.reverse().forEach((s) => key(false, s));
    canvas.focus();
  });
  canvas.focus();
}
