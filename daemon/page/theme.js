// Before anything is painted: light or dark, if it was chosen here.  Else the system says.
(() => {
	try {
		const theme = localStorage.getItem('tolld.theme');
		if (theme === 'light' || theme === 'dark')
			document.documentElement.dataset.theme = theme;
	} catch {
		// No storage in this browser: the system says.
	}
})();
