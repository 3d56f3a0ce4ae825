// node `ws`: a loop of `send` over the viewers of the project, the text made into a Buffer once.
//   node ws_server.js --port PORT --feed PORT
'use strict';
const net = require('node:net');
const { WebSocketServer } = require('ws');

const told = (name) => Number(process.argv[process.argv.indexOf(name) + 1]);
const viewers = new Map();

function publish(project, payload) {
  for (const ws of viewers.get(project) ?? []) ws.send(payload, { binary: false });
}

function feed(socket) {
  let held = Buffer.alloc(0);
  socket.on('data', (data) => {
    held = held.length ? Buffer.concat([held, data]) : data;
    while (held.length >= 8 && held.length >= 8 + held.readUInt32BE(0)) {
      const end = 8 + held.readUInt32BE(0);
      publish(held.readUInt32BE(4), held.subarray(8, end));
      held = held.subarray(end);
    }
  });
}

net.createServer(feed).listen(told('--feed'), '127.0.0.1', () => {
  const server = new WebSocketServer({
    host: '127.0.0.1', port: told('--port'), backlog: 4096, perMessageDeflate: false,
  });
  server.on('connection', (ws, request) => {
    const project = Number(request.url.slice(1));
    if (!viewers.has(project)) viewers.set(project, new Set());
    viewers.get(project).add(ws);
    ws.on('close', () => viewers.get(project).delete(ws));
    ws.on('error', () => {});
  });
});
process.on('SIGTERM', () => process.exit(0));
