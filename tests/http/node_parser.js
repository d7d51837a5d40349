// What Node's parser (llhttp) makes of raw bytes: prints, for every connection that has closed, how
// many requests it took for whole.
'use strict';
const http = require('http');

const server = http.createServer((req, res) => {
  req.socket.taken.push(req);
  req.on('error', () => {});
  req.on('data', () => {});
  req.on('end', () => res.end('ok'));
});
server.on('connection', (socket) => {
  socket.taken = [];
  socket.on('error', () => {});
  socket.on('close', () => console.log(socket.taken.filter((req) => req.complete).length));
});
server.on('clientError', (error, socket) => socket.destroy());
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
process.stdin.on('end', () => process.exit(0)).resume();
