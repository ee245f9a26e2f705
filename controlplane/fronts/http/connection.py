"""One connection of a client, as aiohttp serves it, but for one thing: a body that breaks HTTP's rules in its middle fails
whoever reads it. Made by `server`.

aiohttp's parser in C forgets the body at that point, so its reader would wait for as long as the client stays; the error itself
becomes the connection's next request. This reaches into what aiohttp keeps to itself: tests/contract/test_http_proxy.py tells
when that has changed.
"""

from __future__ import annotations

from aiohttp import web
from aiohttp.web_protocol import _ErrInfo


class Connection(web.RequestHandler):
    __slots__ = ()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._messages:
            return
        error = self._messages[-1][0]
        if not isinstance(error, _ErrInfo):
            return
        if len(self._messages) > 1:  # the request whose body it was in has not begun yet
            body = self._messages[-2][1]
        elif self._current_request is not None:
            body = self._current_request.content
        else:
            return
        if not body.is_eof() and body.exception() is None:
            body.set_exception(web.RequestPayloadError(error.message.partition("\n")[0].strip()))
