// The slider of the film. Without scripts its moments lie side by side, and this file does nothing.
(function () {
  "use strict";
  var PAUSE = 140; // milliseconds between moments
  document.querySelectorAll(".film").forEach(function (film) {
    var controls = film.querySelector(".controls");
    var range = controls.querySelector("input");
    var button = controls.querySelector("button");
    var output = controls.querySelector("output");
    var strips = Array.from(film.querySelectorAll(".strip"), function (strip) {
      return Array.from(strip.querySelectorAll(".moment"));
    });
    var last = Number(range.max);
    var clock = null;

    function show(index) {
      strips.forEach(function (moments) {
        var chosen = Math.round((index * (moments.length - 1)) / Math.max(last, 1));
        moments.forEach(function (moment, i) {
          moment.classList.toggle("now", i === chosen);
        });
      });
      var longest = strips.reduce(function (a, b) { return b.length > a.length ? b : a; });
      var said = longest[index].dataset.said;
      output.textContent = said;
      range.setAttribute("aria-valuetext", said);
      range.value = String(index);
    }

    function stop() {
      clearInterval(clock);
      clock = null;
      button.textContent = "Play";
    }

    function step() {
      var next = Number(range.value) + 1;
      show(next);
      if (next >= last) { stop(); }
    }

    button.addEventListener("click", function () {
      if (clock !== null) { stop(); return; }
      if (Number(range.value) >= last) { show(0); }
      button.textContent = "Pause";
      clock = setInterval(step, PAUSE);
    });
    range.addEventListener("input", function () {
      if (clock !== null) { stop(); }
      show(Number(range.value));
    });
    controls.hidden = false;
    film.classList.add("live");
    show(last);
  });
})();
